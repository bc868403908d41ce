// A peer of the tests that speaks WebSocket by the package ws.
'use strict';

const assert = require('node:assert');
const crypto = require('node:crypto');
const fs = require('node:fs');
const https = require('node:https');
const { WebSocket, WebSocketServer } = require('ws');

const SIZES = [0, 1, 125, 126, 65535, 65536, 1 << 20, 4 << 20];
const [, , role, target, ...words] = process.argv;
const options = Object.fromEntries(words.map((word) => word.split(/=(.*)/s, 2)));

function fail(error) {
  console.error(error);
  process.exit(1);
}

function client() {
  const peer = new WebSocket(target, options.protocol ? options.protocol.split(',') : [], {
    perMessageDeflate: options.deflate === 'on',
    ca: options.ca && fs.readFileSync(options.ca),
    origin: options.origin,
    auth: options.user,
  });
  const messages = SIZES.map((size) => crypto.randomBytes(size));
  const all = Buffer.concat([...messages, Buffer.from('fragment')]);
  const parts = [];
  let left = all.length;
  const pongs = [];
  const check = () => {
    if (left > 0 || pongs.length < 2) return;
    assert(Buffer.concat(parts).equals(all), 'other bytes came back');
    assert.deepStrictEqual(pongs, ['', 'p'.repeat(125)]);
    peer.close(1000, 'enough');
  };
  peer.on('unexpected-response', (request, response) => {
    console.log('refused', response.statusCode);
    process.exit(0);
  });
  peer.on('open', () => {
    for (const message of messages) peer.send(message);
    peer.send(Buffer.from('frag'), { fin: false });
    peer.ping('');
    peer.send(Buffer.from('ment'), { fin: true });
  });
  peer.on('message', (data, isBinary) => {
    assert(isBinary);
    parts.push(data);
    left -= data.length;
    check();
  });
  peer.on('pong', (payload) => {
    pongs.push(payload.toString());
    if (pongs.length === 1) peer.ping('p'.repeat(125));
    check();
  });
  peer.on('close', (code) => console.log('done', peer.protocol, `[${peer.extensions}]`, code));
  peer.on('error', fail);
}

function server() {
  const secure = options.cert && https.createServer({
    cert: fs.readFileSync(options.cert),
    key: fs.readFileSync(options.key),
  });
  const settings = { perMessageDeflate: true, maxPayload: 64 << 20 };
  if (options.protocol) settings.handleProtocols = (offered) => offered.has(options.protocol) && options.protocol;
  const listening = secure || undefined;
  const sockets = new WebSocketServer(listening ? { ...settings, server: secure } : { ...settings, host: '127.0.0.1', port: 0 });
  const ready = () => console.log((secure || sockets).address().port);
  if (secure) secure.listen(0, '127.0.0.1', ready);
  else sockets.on('listening', ready);
  sockets.on('connection', (peer, request) => {
    console.log('client', request.url, peer.protocol || '-', `[${peer.extensions}]`);
    peer.on('message', (data, isBinary) => {
      if (target === 'cut') return peer.terminate();
      if (target === 'leave') return peer.close(1011, 'out of order');
      peer.ping('still there?');
      peer.send(data, { binary: isBinary });
    });
    peer.on('close', (code) => {
      console.log('closed', code);
      sockets.close();
      if (secure) secure.close();
    });
    peer.on('error', fail);
  });
}

({ client, server })[role]();
