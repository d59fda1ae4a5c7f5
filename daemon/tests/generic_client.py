#!/usr/bin/env python3
"""Lists, appends, follows, reads, compacts and plans through a running daemon by reflection alone.

A generic client, as grpcurl is one: it has none of our protos. Optional, and run by hand:

    pip install grpcio grpcio-reflection
    python3 daemon/tests/generic_client.py ~/.local/share/betcode/history.db-daemon/grpc.sock

Appends to a session of its own, and deletes it in the end.
"""

import sys
import uuid

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


class Generic:
    """Calls methods by name; messages are dictionaries."""

    def __init__(self, channel):
        self.channel = channel
        self.reflected = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.reflected)

    def services(self):
        return sorted(self.reflected.get_services())

    def call(self, name, *requests):
        """Answers of `package.Service/Method`, each a dictionary."""
        service, method = name.split("/")
        found = self.pool.FindServiceByName(service).FindMethodByName(method)
        request, answer = (
            GetMessageClass(of) for of in (found.input_type, found.output_type)
        )
        messages = [ParseDict(one, request()) for one in requests]
        kind = ("stream" if found.client_streaming else "unary") + (
            "_stream" if found.server_streaming else "_unary"
        )
        invoke = getattr(self.channel, kind)(
            f"/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        given = iter(messages) if found.client_streaming else messages[0]
        answers = invoke(given, timeout=60)
        if not found.server_streaming:
            answers = [answers]
        for one in answers:
            yield MessageToDict(one, preserving_proto_field_name=True)


def main(socket):
    # gRPC's C core names the socket's path as authority, which Rust's HTTP/2 refuses.
    options = [("grpc.default_authority", "localhost")]
    client = Generic(grpc.insecure_channel(f"unix:{socket}", options=options))
    services = client.services()
    print("services:", *services, sep="\n  ")
    history, session = "betcode.history.v1.HistoryService", f"generic-{uuid.uuid4()}"
    # "ewo=" and the like are base64: bytes in JSON.
    batches = [
        {"request_id": at, "session_id": session, "payloads": ["eyJ0eXBlIjoidXNlciJ9", "aGk="]}
        for at in range(1, 101)
    ]
    answers = list(client.call(f"{history}/Append", *batches))
    assert [int(a["request_id"]) for a in answers] == list(range(1, 101))
    assert all("appended" in a for a in answers), answers
    print("appended:", answers[-1])
    listed = next(client.call(f"{history}/ListSessions", {}))
    mine = [one for one in listed["sessions"] if one["session_id"] == session]
    assert mine and mine[0]["messages"] == "200", mine
    print("listed:", len(listed["sessions"]), "of", listed["total"])
    old = next(client.call("betcode.v1.AgentService/ListSessions", {"limit": 1}))
    assert old["sessions"][0]["id"] == session
    outcomes = list(
        client.call("betcode.history.v1.CompactionService/Run", {"session_id": session})
    )
    assert outcomes[-1]["outcome"]["messages"] == "200", outcomes[-1]
    print("compacted:", outcomes[-1]["outcome"])
    followed = []
    for answer in client.call(f"{history}/Follow", {"session_id": session, "from_sequence": 1}):
        followed += [int(message["sequence"]) for message in answer.get("messages", [])]
        if "caught_up_at" in answer:
            break
    assert followed == list(range(1, 201)), followed
    print("followed:", len(followed), "messages")
    read = list(client.call(f"{history}/Read", {"session_id": session, "last": 2}))
    assert [m["payload"] for a in read for m in a["messages"]] == batches[0]["payloads"]
    plan = next(client.call("betcode.history.v1.CapacityService/Plan", {"measured": True}))
    print("plan:", plan["daemon_memory"])
    health = next(client.call("grpc.health.v1.Health/Check", {}))
    assert health == {"status": "SERVING"}, health
    try:
        next(client.call(f"{history}/GetSession", {"session_id": "../../etc/passwd"}))
        raise AssertionError("a path was taken for a session")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        print("refused:", error.details())
    gone = next(client.call(f"{history}/DeleteSession", {"session_id": session}))
    assert gone == {"deleted": True}, gone
    print("all of it by reflection alone")


if __name__ == "__main__":
    main(sys.argv[1])
