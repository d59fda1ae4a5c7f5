//! How sessions are named: by their id, its beginning, their name, or a part of the id.

use crate::tool::Tool;

/// Sessions `one__alpha`, `one__beta` and `two__alpha-old`, all of one line.
fn tool() -> Tool {
    let tool = Tool::new();
    for name in ["one__alpha", "one__beta", "two__alpha-old"] {
        let line = format!("{{\"type\":\"user\",\"cwd\":\"/home/dev/{name}\"}}\n");
        tool.write(format!("src/{name}.jsonl"), line);
    }
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    tool
}

fn named(tool: &Tool, text: &str) -> String {
    let (document, code) = tool.json(["cat", text]);
    assert_eq!(code, 0, "{text}: {document}");
    document["session"].as_str().unwrap().to_owned()
}

#[test]
fn an_id_its_beginning_a_name_and_a_part_of_the_id_all_do() {
    let tool = tool();
    tool.ok(["rename", "beta", "two"]);
    for (text, id) in [
        ("one__alpha", "one__alpha"),
        ("one__b", "one__beta"),
        ("two__", "two__alpha-old"),
        ("beta", "one__beta"),
        ("ha-o", "two__alpha-old"),
    ] {
        assert_eq!(named(&tool, text), id);
    }
    // Behind `--`, because ids may begin with a dash.
    assert_eq!(tool.ok(["cat", "--", "-old"]).text().lines().count(), 1);
    // The beginning of an id goes before a name, a name before a part.
    assert_eq!(named(&tool, "two"), "two__alpha-old");
    tool.ok(["rename", "one__alpha", "old"]);
    assert_eq!(named(&tool, "old"), "one__alpha");
}

#[test]
fn a_text_that_names_several_sessions_lists_them_with_what_is_known_of_them() {
    let tool = tool();
    tool.ok(["rename", "one__alpha", "first of all"]);
    let (error, code) = tool.json(["delete", "alpha", "--yes"]);
    assert_eq!(code, 3, "{error}");
    let among = error["error"]["among"].as_array().unwrap();
    assert_eq!(among.len(), 2, "{error}");
    let shown = tool.run(["cat", "alpha"]).stderr;
    for part in [
        "one__alpha",
        "first of all",
        "/home/dev/two__alpha-old",
        "2 ids contain it",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for n in 0..12 {
        tool.write(format!("many/n{n:02}.jsonl"), "{}\n");
    }
    tool.ok(["import".as_ref(), tool.path("many").as_os_str()]);
    let shown = tool.run(["cat", "n"]).stderr;
    assert_eq!(shown.matches("       n").count(), 10, "{shown}");
    assert!(shown.contains("and 2 more"), "{shown}");
    assert_eq!(tool.run(["cat", "no such"]).code, 3);
}
