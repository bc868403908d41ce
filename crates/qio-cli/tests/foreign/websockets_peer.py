"""A peer of the tests that speaks WebSocket by the package websockets."""

import asyncio
import base64
import http
import ssl
import sys

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import basic_auth, serve

VOLUME = 4 << 20
SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20]


def noise(length, seed):
    """Bytes of which no two blocks are alike."""
    block = bytes((seed + 7 * at * at + at // 3) % 256 for at in range(4000))
    blocks = (number.to_bytes(8, "little") + block for number in range(length // 4008 + 1))
    return b"".join(blocks)[:length]


async def receive(peer, length):
    """So many bytes, whatever messages they come in."""
    parts, rest = [], length
    while rest > 0:
        part = await peer.recv(decode=False)
        parts.append(part)
        rest -= len(part)
    assert rest == 0, f"{-rest} bytes too many"
    return b"".join(parts)


async def exchange(peer):
    """With somebody who sends everything back: messages of every size, whole and in parts."""
    messages = [noise(size, seed) for seed, size in enumerate(SIZES)]
    fragmented = noise(VOLUME, 99)

    async def send():
        for message in messages:
            await peer.send(message)
        await peer.send(fragmented[at : at + 10_000] for at in range(0, VOLUME, 10_000))

    sending = asyncio.create_task(send())
    sent = b"".join([*messages, fragmented])
    assert await receive(peer, len(sent)) == sent
    await sending
    for payload in [b"", b"\0", b"p" * 125]:
        await asyncio.wait_for(await peer.ping(payload), 20)


def trusting(ca, cert=None, key=None):
    context = ssl.create_default_context(cafile=ca)
    if cert:
        context.load_cert_chain(cert, key)
    return context


async def client(uri, *options):
    """Talks to an echo of qio, and closes: prints what was agreed on."""
    args = {"max_size": None, "ping_interval": None, "compression": "deflate"}
    close = (1000, "")
    for option in options:
        name, value = option.split("=", 1)
        if name == "protocol":
            args["subprotocols"] = value.split(",")
        elif name == "origin":
            args["origin"] = value
        elif name == "ca":
            args["ssl"] = trusting(value)
        elif name == "user":
            token = base64.b64encode(value.encode()).decode()
            args["additional_headers"] = {"Authorization": f"Basic {token}"}
        elif name == "close":
            code, reason = value.split(",")
            close = (int(code), reason)
    try:
        peer = await connect(uri, **args)
    except websockets.exceptions.InvalidStatus as refused:
        print("refused", refused.response.status_code)
        return
    await exchange(peer)
    await peer.close(*close)
    extensions = [extension.name for extension in peer.protocol.extensions]
    got = peer.protocol.close_rcvd
    print("done", peer.subprotocol, extensions, got.code if got else None)


async def listen(client_client):
    """Waits for the end of qio, which is the other side of a stream of text."""
    async with connect(client_client, ping_interval=None) as peer:
        await peer.send("grüße")
        text = ""
        while len(text) < 5:
            part = await peer.recv()
            assert isinstance(part, str), part
            text += part
        print("text", text)


async def server(what, *options):
    """Serves one client; the port comes first."""
    done = asyncio.get_running_loop().create_future()
    args = {"max_size": None, "ping_interval": None}
    for option in options:
        name, value = option.split("=", 1)
        if name == "protocol":
            args["subprotocols"] = value.split(",")
        elif name == "origin":
            args["origins"] = value.split(",")
        elif name == "cert":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*value.split(","))
            args["ssl"] = context
        elif name == "user":
            name, password = value.split(":")
            args["process_request"] = basic_auth(realm="qio", credentials=(name, password))

    async def handle(peer):
        print("client", peer.request.path, peer.subprotocol, peer.request.headers.get("Origin"))
        try:
            if what == "echo":
                pongs = []
                async for message in peer:
                    # In parts, and something in between that has to be answered. An answer counts
                    # for all pings before it.
                    pongs.append(await peer.ping())
                    await peer.send([message[: len(message) // 2], message[len(message) // 2 :]])
                answered = [it for it in pongs if it.done() and not it.exception()]
                assert answered, "no ping was answered"
            elif what == "cut":
                await peer.recv()
                peer.transport.abort()
            elif what == "leave":
                await peer.recv()
                await peer.close(1008, "not here")
            elif what == "end":
                await peer.send(await peer.recv())
                await peer.close(1000)
        finally:
            got = peer.protocol.close_rcvd
            done.set_result(got.code if got else None)

    async with serve(handle, "127.0.0.1", 0, **args) as listening:
        print(listening.sockets[0].getsockname()[1], flush=True)
        print("closed", await done)


asyncio.run({"client": client, "text": listen, "server": server}[sys.argv[1]](*sys.argv[2:]))
