//! The report as one self-contained HTML page: no scripts, no fonts, nothing loaded.
//!
//! Shapes are SVG stretched to the page's width; all text is HTML beside and over them, so it
//! keeps its size on a phone. Colours are CSS variables with a light and a dark set, and never
//! the only difference: lines differ in dashes, markers in shape, and all carry labels. Every
//! figure stands in a table as well. Names and directories are input: all text is escaped, and
//! the page's content policy lets nothing run or load even if it were not.

mod cards;
mod forecast;
mod growth;
mod markup;
mod plot;
mod scale;
mod tables;

use std::fmt::Write;

use super::CapacityReport;
use crate::capacity::text::date_time;
use markup::{esc, level_badge};

const STYLE: &str = include_str!("style.css");

/// Nothing may run, and nothing may be loaded.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The page, complete from doctype to end.
#[must_use]
pub fn html(report: &CapacityReport) -> String {
    let mut page = String::with_capacity(48 * 1024);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>History store: size, growth and forecast</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><h1>History store</h1> {badge}\
         <p class=\"where\">{database} · {made} UTC</p></header>\n",
        badge = level_badge(report.level),
        database = esc(&report.database),
        made = date_time(report.generated_ms),
    );
    page.push_str(&cards::cards(report));
    let _ = write!(
        page,
        "<div class=\"pair\">\n{}{}</div>\n",
        growth::section(report),
        forecast::section(report)
    );
    let _ = write!(
        page,
        "<div class=\"pair\">\n{}{}</div>\n",
        tables::planned(report),
        tables::types(report)
    );
    page.push_str(&tables::biggest(report));
    let _ = write!(
        page,
        "<div class=\"pair\">\n{}{}</div>\n",
        tables::fastest(report),
        tables::projects(report)
    );
    page.push_str(&tables::runs(report));
    page.push_str(FOOTER);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

const FOOTER: &str = "<footer class=\"note\">\n\
    <p>A <b>session-hour</b> is an hour of a session's active time: gaps between messages, each \
    counted up to five minutes, and turns of imported streams, as long as their results say. \
    <b>Footprint</b> is what the database and its write-ahead log \
    take, divided by what the same history takes uncompacted. Compaction loses no byte.</p>\n\
    <p>MB is 10<sup>6</sup> bytes. Days and times are UTC. The page is complete in itself: it \
    loads nothing and sends nothing.</p>\n</footer>\n";

#[cfg(test)]
mod tests;
