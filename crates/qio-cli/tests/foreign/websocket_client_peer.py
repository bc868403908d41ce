"""A client of the tests that speaks WebSocket by the package websocket-client."""

import os
import sys
import threading

import websocket

SIZES = [0, 1, 125, 126, 65535, 65536, 1 << 20, 4 << 20]


def main(uri, *options):
    args = {"timeout": 20}
    for option in options:
        name, value = option.split("=", 1)
        if name == "ca":
            args["sslopt"] = {"ca_certs": value}
        elif name == "protocol":
            args["subprotocols"] = value.split(",")
        elif name == "origin":
            args["origin"] = value
        elif name == "user":
            args["header"] = {"Authorization": value}
    try:
        peer = websocket.create_connection(uri, **args)
    except websocket.WebSocketBadStatusException as refused:
        print("refused", refused.status_code)
        return
    messages = [os.urandom(size) for size in SIZES]
    sending = threading.Thread(target=lambda: [peer.send_binary(part) for part in messages])
    sending.start()
    everything = b"".join(messages)
    got = bytearray()
    while len(got) < len(everything):
        got += peer.recv()
    sending.join()
    assert got == everything
    # In fragments, with a ping between them.
    abnf = websocket.ABNF
    peer.send_frame(abnf.create_frame(b"frag", abnf.OPCODE_BINARY, 0))
    peer.ping(b"inside")
    peer.send_frame(abnf.create_frame(b"ment", abnf.OPCODE_CONT, 1))
    parts, pongs = b"", []
    while len(parts) < 8 or not pongs:
        opcode, data = peer.recv_data(control_frame=True)
        if opcode == abnf.OPCODE_PONG:
            pongs.append(data)
        else:
            parts += data
    assert (parts, pongs) == (b"fragment", [b"inside"]), (parts, pongs)
    peer.send_close(1001, b"enough")
    while True:
        opcode, data = peer.recv_data(control_frame=True)
        if opcode == abnf.OPCODE_CLOSE:
            print("done", peer.getsubprotocol(), int.from_bytes(data[:2], "big"))
            return


main(*sys.argv[1:])
