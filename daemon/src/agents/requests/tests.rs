use super::*;

const LINE_BYTES_MAX: usize = 10_000;

fn ask(request_id: &str, tool_name: &str, input: &str) -> Ask {
    let object = format!(
        r#"{{"type":"control_request","request_id":"{request_id}","request":{{"subtype":"can_use_tool","tool_name":"{tool_name}","input":{input}}}}}"#
    );
    Ask {
        request_id: request_id.to_owned(),
        tool_name: tool_name.to_owned(),
        input: input.to_owned(),
        object,
    }
}

fn response(line: &Bytes) -> Value {
    let line: Value = serde_json::from_slice(line).unwrap();
    line["response"]["response"].clone()
}

fn code<T>(result: Result<T, Refusal>) -> &'static str {
    result.err().unwrap().code
}

#[test]
fn the_first_valid_answer_wins() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    assert!(
        requests
            .asked(0, 1, ask("a", "Bash", r#"{"c":1}"#))
            .is_none()
    );
    assert_eq!(
        code(requests.decide("a", Decision::Unspecified, None, "")),
        "INVALID"
    );
    assert_eq!(
        code(requests.decide("a", Decision::AllowWithEdit, None, "")),
        "INVALID"
    );
    let done = requests
        .decide("a", Decision::AllowWithEdit, Some(r#"{"c":2}"#), "")
        .unwrap();
    assert_eq!(response(&done.answers[0])["updatedInput"]["c"], 2);
    assert_eq!(
        code(requests.decide("a", Decision::Deny, None, "")),
        "UNKNOWN_REQUEST"
    );
}

#[test]
fn several_are_open_at_once_and_each_has_its_answer() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    for (at, id) in ["a", "b", "c"].into_iter().enumerate() {
        requests.asked(0, at as u64 + 1, ask(id, "Bash", "{}"));
    }
    assert_eq!(requests.events_up_to(2).len(), 2);
    let no = requests.decide("b", Decision::Deny, None, "why").unwrap();
    assert_eq!(response(&no.answers[0])["message"], "why");
    assert!(!no.interrupts);
    let stop = requests
        .decide("c", Decision::DenyWithInterrupt, None, "")
        .unwrap();
    assert!(stop.interrupts);
    assert!(requests.waits());
    assert!(requests.withdrawn("a") && !requests.waits());
}

#[test]
fn a_grant_answers_what_is_open_and_what_comes() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    requests.asked(0, 1, ask("a", "Bash", "{}"));
    requests.asked(0, 2, ask("b", "Bash", "{}"));
    requests.asked(0, 3, ask("c", "Edit", "{}"));
    let done = requests
        .decide("a", Decision::AllowSession, None, "")
        .unwrap();
    assert_eq!(done.answers.len(), 2);
    let yes = requests.asked(0, 4, ask("d", "Bash", "{}")).unwrap();
    assert_eq!(response(&yes)["behavior"], "allow");
    let no = requests.set_grant("Edit", false).unwrap();
    assert_eq!(response(&no[0])["behavior"], "deny");
    requests.clear_grants("Bash");
    assert!(requests.asked(0, 5, ask("e", "Bash", "{}")).is_none());
    assert_eq!(requests.grants().len(), 1);
    requests.clear_grants("");
    assert!(requests.grants().is_empty());
    assert_eq!(code(requests.set_grant("", true)), "INVALID");
}

const TWO: &str = r#"{"questions":[{"question":"Which?"},{"question":"When?"}]}"#;

#[test]
fn questions_may_be_answered_one_by_one() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    requests.set_grant(ASK_USER, true).unwrap();
    assert!(requests.asked(0, 1, ask("q", ASK_USER, TWO)).is_none());
    let mut say = |pairs: &[(&str, &str)]| {
        let own = |(q, a): &(&str, &str)| (q.to_string(), a.to_string());
        requests.answer("q", pairs.iter().map(own).collect())
    };
    assert_eq!(code(say(&[])), "INVALID");
    assert_eq!(code(say(&[("Who?", "x")])), "INVALID");
    assert_eq!(say(&[("Which?", "A")]), Ok(None));
    // Somebody else was first.
    assert_eq!(say(&[("Which?", "B")]), Ok(None));
    let line = say(&[("When?", "now")]).unwrap().unwrap();
    let input = &response(&line)["updatedInput"];
    assert_eq!(input["answers"], json!({"Which?": "A", "When?": "now"}));
    assert_eq!(input["questions"][1]["question"], "When?");
}

#[test]
fn the_only_answer_is_that_to_the_only_question() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    requests.asked(
        0,
        1,
        ask("q", ASK_USER, r#"{"questions":[{"question":"Which?"}]}"#),
    );
    assert_eq!(
        code(requests.decide("q", Decision::AllowOnce, None, "")),
        "INVALID"
    );
    let answers = HashMap::from([("0".to_owned(), "A".to_owned())]);
    let line = requests.answer("q", answers).unwrap().unwrap();
    assert_eq!(response(&line)["updatedInput"]["answers"]["Which?"], "A");
    let again = ask("q", ASK_USER, r#"{"questions":["Which?"]}"#);
    requests.asked(0, 2, again);
    let declined = requests.decide("q", Decision::Deny, None, "").unwrap();
    assert_eq!(response(&declined.answers[0])["behavior"], "deny");
}

#[test]
fn open_requests_are_bounded_and_expire() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    for at in 0..OPEN_REQUESTS_MAX {
        let id = at.to_string();
        assert!(
            requests
                .asked(at as u64, 1, ask(&id, "Bash", "{}"))
                .is_none()
        );
    }
    let refused = requests.asked(9, 1, ask("more", "Bash", "{}")).unwrap();
    assert_eq!(response(&refused)["behavior"], "deny");
    assert_eq!(requests.oldest_ms(), Some(0));
    assert_eq!(requests.expire(3, "late").len(), 3);
    assert_eq!(requests.oldest_ms(), Some(3));
}

#[test]
fn an_answer_that_does_not_fit_a_line_is_refused_and_leaves_the_request_open() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    requests.asked(0, 1, ask("a", "Bash", "{}"));
    let long = "x".repeat(LINE_BYTES_MAX);
    let edit = Some(long.as_str());
    let edited = requests.decide("a", Decision::AllowWithEdit, edit, "");
    assert_eq!(code(edited), "TOO_LONG");
    assert_eq!(
        code(requests.decide("a", Decision::Deny, None, &long)),
        "TOO_LONG"
    );
    assert!(requests.decide("a", Decision::Deny, None, "no").is_ok());
    requests.asked(0, 2, ask("q", ASK_USER, TWO));
    let mut say = |question: &str, bytes| {
        let pair = (question.to_owned(), "x".repeat(bytes));
        requests.answer("q", HashMap::from([pair]))
    };
    assert_eq!(code(say("Which?", LINE_BYTES_MAX)), "TOO_LONG");
    assert_eq!(say("Which?", LINE_BYTES_MAX / 2), Ok(None));
    // Each would fit, both together do not.
    assert_eq!(code(say("When?", LINE_BYTES_MAX / 2)), "TOO_LONG");
    let line = say("When?", 3).unwrap().unwrap();
    assert_eq!(response(&line)["updatedInput"]["answers"]["When?"], "xxx");
}

#[test]
fn a_request_whose_answer_does_not_fit_a_line_is_denied_whatever_is_granted() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    requests.set_grant("Bash", true).unwrap();
    let input = format!(r#"{{"c":"{}"}}"#, "x".repeat(LINE_BYTES_MAX - 120));
    for (id, tool) in [("a", "Bash"), ("b", "Edit"), ("c", ASK_USER)] {
        let no = requests.asked(0, 1, ask(id, tool, &input)).unwrap();
        assert_eq!(response(&no)["behavior"], "deny", "{tool}");
        assert!(no.len() <= LINE_BYTES_MAX);
    }
    assert!(!requests.waits());
}

#[test]
fn a_request_whose_id_nobody_could_be_told_whole_is_denied() {
    let mut requests = Requests::new(1 << 20);
    let id = "x".repeat(LARGE_INPUT_TEXT_BYTES_MAX + 1);
    let answer = requests.asked(0, 1, ask(&id, "Bash", "{}")).unwrap();
    assert_eq!(response(&answer)["behavior"], "deny");
    assert!(!requests.waits());
}

#[test]
fn an_answer_is_shorter_than_a_piece_of_a_line_that_goes_on() {
    let bytes = answer("r", &Verdict::Allow("{}")).len();
    let denied = |line_bytes_max: usize| {
        let mut requests = Requests::new(line_bytes_max);
        requests.asked(0, 1, ask("r", "Bash", "{}")).is_some()
    };
    assert!(denied(bytes));
    assert!(!denied(bytes + 1));
}

#[test]
fn questions_that_nobody_could_answer_are_denied_at_once() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    for input in [
        "{}",
        r#"{"questions":[]}"#,
        r#"{"questions":[{"header":"x"}, ""]}"#,
    ] {
        let denied = requests.asked(0, 1, ask("q", ASK_USER, input)).unwrap();
        assert_eq!(response(&denied)["behavior"], "deny", "{input}");
        assert!(!requests.waits(), "{input}");
    }
}

#[test]
fn a_question_that_is_a_plain_text_is_answered_by_it() {
    let mut requests = Requests::new(LINE_BYTES_MAX);
    let plain = ask("q", ASK_USER, r#"{"questions":["A?","B?"]}"#);
    assert!(requests.asked(0, 1, plain).is_none());
    assert_eq!(requests.events_of(1).len(), 2);
    let both = [("A?", "x"), ("B?", "y")].map(|(q, a)| (q.to_owned(), a.to_owned()));
    let line = requests.answer("q", both.into()).unwrap().unwrap();
    assert_eq!(response(&line)["updatedInput"]["answers"]["B?"], "y");
}
