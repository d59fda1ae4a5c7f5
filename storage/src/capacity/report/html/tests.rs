use std::process::Command;

use super::html;
use crate::capacity::report::tests::{empty, hostile, over_limit, report};

/// Elements without content.
const VOID: [&str; 9] = [
    "meta", "link", "br", "wbr", "path", "line", "circle", "!doctype", "hr",
];

/// Tags of a page in which every element is closed in its turn: a strict reader, so that
/// unescaped text cannot pass.
fn tags(page: &str) -> Vec<(String, String)> {
    let start = page.find("<style>").unwrap();
    let end = page.find("</style>").unwrap();
    let page = format!("{}{}", &page[..start], &page[end + "</style>".len()..]);
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    for part in page.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap();
        assert!(!text.contains('>'), "{part}");
        for entity in text.split('&').skip(1) {
            let name = entity.split(';').next().unwrap();
            assert!(
                ["amp", "lt", "gt", "quot", "#39"].contains(&name),
                "{entity}"
            );
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "{part}");
            continue;
        }
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        if !VOID.contains(&name) {
            open.push(name.to_owned());
        }
        seen.push((name.to_owned(), attributes.to_owned()));
    }
    assert_eq!(open, Vec::<String>::new());
    seen
}

#[test]
fn every_page_is_well_formed_whatever_names_it_shows() {
    for report in [report(), hostile(), empty(), over_limit()] {
        tags(&html(&report));
    }
}

#[test]
fn hostile_names_stay_text() {
    let page = html(&hostile());
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(tags(&page).iter().all(|(name, _)| name != "script"));
    assert!(!page.contains(['\u{1b}', '\u{202e}']));
}

#[test]
fn a_page_runs_nothing_and_names_nothing_to_load() {
    for report in [report(), hostile(), empty()] {
        let page = html(&report);
        for (name, attributes) in tags(&page) {
            assert!(!["script", "img", "iframe", "object", "a", "form"].contains(&name.as_str()));
            // What stands outside of quotes: names of attributes.
            let names: String = attributes.split('"').step_by(2).collect();
            assert!(
                names.split_whitespace().all(|name| !name.starts_with("on")),
                "{names}"
            );
            assert!(!attributes.contains("src="), "{name} {attributes}");
            if let Some((_, link)) = attributes.split_once("href=") {
                assert!(link.starts_with("\"data:"), "{name} {attributes}");
            }
        }
        assert!(!page.contains("http://") && !page.contains("https://"));
        assert!(!page.contains("url(") && !page.contains("@import"));
        assert!(page.contains("default-src 'none'"));
    }
}

#[test]
fn every_chart_and_table_says_what_it_is() {
    let page = html(&report());
    for (name, attributes) in tags(&page) {
        if name == "svg" {
            let told = attributes.contains("aria-label=") || attributes.contains("aria-hidden=");
            assert!(told, "{attributes}");
        }
    }
    assert_eq!(
        page.matches("<table").count(),
        page.matches("<caption>").count()
    );
    for expected in [
        "Growth curve: ",
        "against the limit of 1.00 GB",
        "6.24 MB",
        "2.54×",
        "big",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
}

#[test]
fn numbers_in_the_page_are_numbers() {
    for report in [report(), hostile(), empty(), over_limit()] {
        let page = html(&report);
        assert!(!page.contains("NaN") && !page.contains("inf%") && !page.contains("inf "));
    }
}

/// What a browser without network complains about on a page; `None` when there is none that
/// starts. It is the one that `BETCODE_CHROMIUM` names, which has to work, or `chromium`.
fn complaints(page: &str) -> Option<Vec<String>> {
    let named = std::env::var("BETCODE_CHROMIUM").ok();
    let browser = named.as_deref().unwrap_or("chromium");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    std::fs::write(&file, page).unwrap();
    let run = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args([
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--window-size=390,800",
        ])
        .args(["--enable-logging=stderr", "--dump-dom"])
        .arg(format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        ))
        .arg(format!("file://{}", file.display()))
        .output();
    let run = match run {
        Ok(run) if run.status.success() => run,
        other => {
            assert!(named.is_none(), "{browser} does not start: {other:?}");
            return None;
        }
    };
    let told = String::from_utf8_lossy(&run.stderr);
    let drawn = String::from_utf8_lossy(&run.stdout);
    assert!(drawn.contains("</html>"), "{drawn}");
    // Errors, and all that the page's content policy keeps from loading or running.
    Some(
        told.lines()
            .filter(|line| line.contains("CONSOLE"))
            .map(str::to_owned)
            .collect(),
    )
}

#[test]
fn a_browser_draws_every_page_without_errors_and_without_network() {
    let image = "<img src=\"http://example.org/x.png\"></main>";
    let Some(control) = complaints(&html(&report()).replace("</main>", image)) else {
        println!("not checked: there is no browser");
        return;
    };
    assert!(
        !control.is_empty(),
        "a page that loads something is found out"
    );
    for report in [hostile(), over_limit()] {
        assert_eq!(complaints(&html(&report)), Some(Vec::new()));
    }
}
