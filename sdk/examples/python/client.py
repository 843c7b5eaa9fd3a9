#!/usr/bin/env python3
"""A client of a Patchbay server over ZeroMQ: streams text, and goes on with it when the connection breaks.

    apt install python3-zmq python3-protobuf protobuf-compiler        # or: pip install pyzmq protobuf
    protoc -I schemas --python_out sdk/examples/python schemas/patchbay.proto
    patchbay serve --model configs/quickstart/model &
    python3 sdk/examples/python/client.py "What is 293 + 85?"

A client is a DEALER socket. Each message that it sends is one frame, a serialized ClientMessage; each frame that it gets is a
ServerMessage. The events of a stream are numbered from 1: whoever counts them knows that none is missing.
"""
import argparse
import secrets
import sys

import zmq

import patchbay_pb2 as pb

PATIENCE_MS = 5000


class Server:
    """One connection, made anew when the server is silent for too long."""

    def __init__(self, address, server_key=None, own_keys=None):
        self.address, self.server_key, self.own_keys = address, server_key, own_keys
        self.context = zmq.Context()
        self.socket = None
        self.connect()

    def connect(self):
        if self.socket:
            self.socket.close(linger=0)
        self.socket = self.context.socket(zmq.DEALER)
        if self.server_key:  # CURVE: the server's public key, and our own pair
            self.socket.curve_serverkey = self.server_key.encode()
            self.socket.curve_publickey, self.socket.curve_secretkey = (k.encode() for k in self.own_keys)
        self.socket.connect(self.address)

    def send(self, message):
        self.socket.send(message.SerializeToString())

    def receive(self):
        """The next message, or None when nothing came in time."""
        if not self.socket.poll(PATIENCE_MS):
            return None
        message = pb.ServerMessage()
        message.ParseFromString(self.socket.recv())
        return message

    def ask(self, **question):
        """A question that is answered at once: ask(health=pb.HealthQuery())."""
        self.send(pb.ClientMessage(**question))
        answer = self.receive()
        if answer is None:
            raise TimeoutError(f"no answer from {self.address}")
        if answer.HasField("error"):
            raise RuntimeError(answer.error.message)
        return answer

    def generate(self, request, number=1):
        """Yields the stream's events, each exactly once; the last one has `end`."""
        request.resume_key = secrets.token_bytes(32)  # whoever knows it may go on with the stream
        self.send(pb.ClientMessage(request=number, generate=request))
        last = 0  # sequence of the event that came last
        for _ in range(10):
            for event in iter(self.receive, None):
                if event.request != number:
                    continue
                if event.HasField("error"):
                    raise RuntimeError(event.error.message)
                if event.sequence != last + 1:
                    break  # sent again, or one is missing: ask from where we are
                last = event.sequence
                if last % 64 == 0 or event.HasField("end"):  # the server may forget what we have
                    self.send(pb.ClientMessage(request=number, credit=pb.Credit(acknowledged=last)))
                yield event
                if event.HasField("end"):
                    return
            self.connect()
            self.send(pb.ClientMessage(request=number, resume=pb.Resume(key=request.resume_key, after=last)))
        raise TimeoutError(f"{self.address} does not answer any more")


def read_keys(path):
    """The words of a file of `patchbay keys new`."""
    with open(path) as file:
        words = [line.split() for line in file if line.strip() and not line.startswith("#")]
    named = {w[0]: w[1] for w in words if w[0] in ("public", "secret")}
    return (named["public"], named["secret"]) if named else words[0][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--server", default="tcp://127.0.0.1:5757")
    parser.add_argument("--max-tokens", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0)
    parser.add_argument("--server-key", help="the server's NAME.pub")
    parser.add_argument("--key", help="our own NAME.key")
    flags = parser.parse_args()

    keys = (read_keys(flags.server_key), read_keys(flags.key)) if flags.server_key else (None, None)
    server = Server(flags.server, *keys)
    info = server.ask(info=pb.InfoQuery()).info
    print(f"{info.model} ({info.architecture}) on {info.server}", file=sys.stderr)

    request = pb.Generate(max_tokens=flags.max_tokens, split_reasoning=True)
    request.chat.messages.add(role="user", content=flags.prompt)
    request.sampling["temperature"].number = flags.temperature
    for event in server.generate(request):
        if event.HasField("tokens"):
            print(event.tokens.reasoning, end="", file=sys.stderr, flush=True)
            print(event.tokens.text, end="", flush=True)
        elif event.end.reason == pb.FINISH_REASON_FAILED:
            sys.exit(f"\nfailed: {event.end.error.message}")
        else:
            usage = event.end.usage
            print()
            print(f"{usage.n_prompt} + {usage.n_generated} tokens", file=sys.stderr)


if __name__ == "__main__":
    main()
