"""An agent for tests: prints and reads what docs/design/agents.md describes, as the prompt asks.

A prompt is words that are done one after the other:
  say:TEXT        a message in partial output, and whole
  ask:TOOL[:ID]   asks whether it may use a tool; says what it was answered
  asks:A,B        asks for several at once, then waits for all answers
  wide:BYTES      asks whether it may use a tool, in a line so long; says what it was answered
  named:BYTES     the same, with a name so long
  question        asks the user two questions; says the answers
  lines:N         N lines of partial output, as fast as it can
  big:BYTES       one line so long
  raw             lines that are no JSON: blank, torn, NUL, two objects on one
  hang            never ends by itself; SIGINT ends the turn
  deaf            ignores SIGINT from now on
  stop:FILE       waits until the file is there
  err:TEXT        says it on standard error
  exit:CODE       ends at once, in the middle of a line
  silent          ends the turn without a result, by ending
  args            says its own arguments
  child           starts a process that outlives it unless its group is killed; says its id
  shut            closes its input, asks for something, and lives on after the turn
  mute            closes its output, and lives on
  stay            lives on when its input ends; says its id
  escaped:TEXT    starts a process that leaves its group and goes on printing TEXT to its output for
                  a minute; says its id
  odd             a control request that nobody here knows; says what it was answered
  print:BASE64    exactly these bytes, and a line end
  tool:ID[:FILE]  uses a tool without asking; its result comes when the file is there
  await:ID        waits for the answer to a request; says it
  long:BYTES      asks to use a tool, its input so long; says how much of it came back
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time

ME = "agent-" + str(os.getpid())
for at, word in enumerate(sys.argv):
    if word == "--resume":
        ME = sys.argv[at + 1]
MODEL = "fake-1"
for at, word in enumerate(sys.argv):
    if word == "--model":
        MODEL = sys.argv[at + 1]

stop_turn = False


class Interrupted(Exception):
    pass


def on_interrupt(*_):
    global stop_turn
    stop_turn = True
    raise Interrupted


def tell(value):
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")


def flush():
    sys.stdout.flush()


def partial(event):
    tell({"type": "stream_event", "event": event, "session_id": ME, "parent_tool_use_id": None})


count = 0


def say(text):
    global count
    count += 1
    name = "msg_%d_%d" % (os.getpid(), count)
    partial({"type": "message_start", "message": {"id": name}})
    half = len(text) // 2
    for part in (text[:half], text[half:]):
        partial({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}})
    tell({"type": "assistant", "message": {"id": name, "content": [{"type": "text", "text": text}]}, "session_id": ME})
    flush()


def next_line():
    line = sys.stdin.readline()
    if not line:
        if stays:
            live_on()
        sys.exit(0)
    return json.loads(line)


def ask(tool, name, tool_input):
    request = {"subtype": "can_use_tool", "tool_name": tool, "input": tool_input}
    tell({"type": "control_request", "request_id": name, "request": request})
    flush()


def answers(names):
    given = {}
    while set(given) != set(names):
        line = next_line()
        if line["type"] == "control_response":
            given[line["response"]["request_id"]] = line["response"]
    return given


def said(response):
    return json.dumps(response.get("response", response.get("error")), sort_keys=True)


is_shut = False
stays = False


def live_on():
    while True:
        try:
            time.sleep(60)
        except Interrupted:
            pass


def do(word):
    global is_shut, stays
    verb, _, rest = word.partition(":")
    if verb == "say":
        say(rest)
    elif verb == "ask":
        tool, _, name = rest.partition(":")
        name = name or "req-%d-%d" % (os.getpid(), time.monotonic_ns())
        ask(tool, name, {"command": "ls", "n": 1.50})
        say(name + " " + said(answers([name])[name]))
    elif verb == "asks":
        names = rest.split(",")
        for name in names:
            ask("Bash", name, {"command": name})
        given = answers(names)
        for name in names:
            say(name + " " + said(given[name]))
    elif verb in ("wide", "named"):
        request = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": ""}}
        line = {"type": "control_request", "request_id": verb, "request": request}
        rest = "x" * (int(rest) - len(json.dumps(line, separators=(",", ":"))))
        if verb == "wide":
            request["input"]["command"] = rest
        else:
            line["request_id"] += rest
        tell(line)
        flush()
        name = line["request_id"]
        say(verb + " " + said(answers([name])[name]))
    elif verb == "question":
        questions = [{"question": q, "options": [{"label": "A"}, {"label": "B"}]} for q in ("Which?", "When?")]
        ask("AskUserQuestion", "q-1", {"questions": questions})
        say(said(answers(["q-1"])["q-1"]))
    elif verb == "lines":
        for at in range(int(rest)):
            partial({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "%d " % at}})
        flush()
    elif verb == "big":
        flush()
        sys.stdout.write("x" * int(rest) + "\n")
        flush()
    elif verb == "raw":
        flush()
        sys.stdout.buffer.write(b'\nprose\n{"type":\n\x00\xff\r\n')
        sys.stdout.buffer.write(b'{"type":"rate_limit_event"}{"type":"x"}\n')
        sys.stdout.buffer.flush()
    elif verb == "hang":
        say("hanging")
        while True:
            time.sleep(60)
    elif verb == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        say("deaf")
    elif verb == "stop":
        while not os.path.exists(rest):
            time.sleep(0.005)
    elif verb == "err":
        sys.stderr.write(rest + "\n")
        sys.stderr.flush()
    elif verb == "exit":
        sys.stdout.write('{"type":"assist')
        flush()
        os._exit(int(rest))
    elif verb == "silent":
        sys.exit(0)
    elif verb == "args":
        say(json.dumps({"args": sys.argv[1:], "cwd": os.getcwd()}))
    elif verb == "child":
        child = subprocess.Popen(["sleep", "600"])
        say("child %d" % child.pid)
    elif verb == "shut":
        os.close(0)
        is_shut = True
        ask("Bash", "shut-1", {})
    elif verb == "mute":
        flush()
        os.close(1)
        live_on()
    elif verb == "stay":
        stays = True
        say("stays %d" % os.getpid())
    elif verb == "escaped":
        loop = "for _ in $(seq 1200); do echo '%s'; sleep 0.05; done" % rest
        child = subprocess.Popen(["sh", "-c", loop], start_new_session=True)
        say("escaped %d" % child.pid)
    elif verb == "odd":
        tell({"type": "control_request", "request_id": "odd-1", "request": {"subtype": "set_mood"}})
        flush()
        say("odd " + said(answers(["odd-1"])["odd-1"]))
    elif verb == "print":
        flush()
        sys.stdout.buffer.write(base64.b64decode(rest) + b"\n")
        sys.stdout.buffer.flush()
    elif verb == "long":
        ask("Write", "long-1", {"content": "x" * int(rest)})
        given = answers(["long-1"])["long-1"]["response"]
        say("%d bytes" % len(given["updatedInput"]["content"]))
    elif verb == "tool":
        name, _, gate = rest.partition(":")
        use = {"type": "tool_use", "id": name, "name": "Bash", "input": {"command": "ls"}}
        tell({"type": "assistant", "message": {"id": "m-" + name, "content": [use]}, "session_id": ME})
        flush()
        while gate and not os.path.exists(gate):
            time.sleep(0.005)
        result = {"type": "tool_result", "tool_use_id": name, "content": "x"}
        tell({"type": "user", "message": {"content": [result]}, "session_id": ME, "uuid": "u-" + name})
        flush()
    elif verb == "await":
        say(rest + " " + said(answers([rest])[rest]))


def text_of(content):
    if isinstance(content, str):
        return content
    say(json.dumps([block["type"] for block in content]))
    return " ".join(block["text"] for block in content if block["type"] == "text")


def turn(content):
    global stop_turn
    stop_turn = False
    tell({"type": "system", "subtype": "init", "session_id": ME, "model": MODEL, "cwd": os.getcwd(), "tools": ["Bash"], "pid": os.getpid(), "claude_code_version": "9.8.7"})
    flush()
    subtype = "success"
    try:
        for word in text_of(content).split():
            do(word)
    except Interrupted:
        subtype = "error_during_execution"
    usage = {"input_tokens": 3, "output_tokens": 4}
    tell({"type": "result", "subtype": subtype, "duration_ms": 5, "total_cost_usd": 0.01, "usage": usage, "session_id": ME})
    flush()


def main():
    while True:
        try:
            line = next_line()
            if line["type"] == "user":
                signal.signal(signal.SIGINT, on_interrupt)
                turn(line["message"]["content"])
                if is_shut:
                    live_on()
        except Interrupted:
            pass


signal.signal(signal.SIGINT, on_interrupt)
main()
