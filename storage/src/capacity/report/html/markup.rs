//! Small pieces of the page.

use std::fmt::Write;

use crate::capacity::levels::Level;
use crate::capacity::text::harmless;

/// `text` as HTML text or attribute value, without characters that reorder or control.
pub(super) fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in harmless(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A share as a CSS percentage between 0 and 100.
pub(super) fn css_percent(fraction: f64) -> String {
    let percent = if fraction.is_finite() {
        fraction.clamp(0.0, 1.0) * 100.0
    } else {
        0.0
    };
    format!("{percent:.2}%")
}

/// The level with a shape of its own.
pub(super) fn level_badge(level: Level) -> String {
    let (shape, words) = match level {
        Level::Ok => ("<circle cx=\"5\" cy=\"5\" r=\"4.5\"/>", "size ok"),
        Level::Warning => ("<path d=\"M5 .5 9.8 9.5H.2z\"/>", "size: warning"),
        Level::Critical => ("<path d=\"M.5.5h9v9h-9z\"/>", "size: critical"),
    };
    format!(
        "<span class=\"level {}\"><svg viewBox=\"0 0 10 10\" fill=\"currentColor\" \
         aria-hidden=\"true\">{shape}</svg>{words}</span>",
        level.name()
    )
}

/// A bar filled to `fraction`, with named marks. The last mark's name keeps inside the bar.
pub(super) fn meter(label: &str, fraction: f64, level: Level, ticks: &[(f64, &str)]) -> String {
    let mut marks = String::new();
    for (at, name) in ticks {
        let end = if *at > 0.85 { " end" } else { "" };
        let left = css_percent(*at);
        let name = esc(name);
        let _ = write!(
            marks,
            "<span class=\"tick{end}\" style=\"left:{left}\"><span>{name}</span></span>"
        );
    }
    format!(
        "<div class=\"meter {level}\" role=\"meter\" aria-label=\"{label}\" aria-valuemin=\"0\" \
         aria-valuemax=\"100\" aria-valuenow=\"{now:.1}\"><span class=\"fill\" \
         style=\"width:{width}\"></span>{marks}</div>",
        level = level.name(),
        label = esc(label),
        now = fraction.clamp(0.0, 1.0) * 100.0,
        width = css_percent(fraction),
    )
}

/// A bar of `part` within `whole`, both shares of the longest bar.
pub(super) fn bars(whole: f64, part: f64) -> String {
    format!(
        "<span class=\"bars\" aria-hidden=\"true\"><i class=\"whole\" style=\"width:{}\"></i>\
         <i class=\"part\" style=\"width:{}\"></i></span>",
        css_percent(whole),
        css_percent(part)
    )
}

/// A bar of one share.
pub(super) fn bar(share: f64) -> String {
    format!(
        "<span class=\"bars\" aria-hidden=\"true\"><i class=\"part\" style=\"width:{}\"></i></span>",
        css_percent(share)
    )
}

/// A cell of a table that stacks on a phone, with its column's name.
pub(super) fn cell(label: &str, value: &str) -> String {
    format!("<td role=\"cell\" data-label=\"{label}\">{value}</td>")
}

/// `text` as HTML that may be broken after slashes: directories, and names made of them.
pub(super) fn path(text: &str) -> String {
    esc(text).replace('/', "/<wbr>")
}

/// A table's start: hidden caption and column heads. `heads` are `(class, text)`; a table of
/// class `stack` becomes a list on a phone, with `two` in two columns.
pub(super) fn table_start(class: &str, caption: &str, heads: &[(&str, &str)]) -> String {
    let mut out = format!(
        "<table class=\"{class}\" role=\"table\"><caption>{caption}</caption>\
         <thead role=\"rowgroup\"><tr role=\"row\">"
    );
    for (class, text) in heads {
        let _ = write!(
            out,
            "<th scope=\"col\" role=\"columnheader\" class=\"{class}\">{text}</th>"
        );
    }
    out.push_str("</tr></thead><tbody role=\"rowgroup\">\n");
    out
}

pub(super) const TABLE_END: &str = "</tbody></table>\n";
