// A client of the tests that speaks WebSocket as Node itself does, and browsers do.
'use strict';

const assert = require('node:assert');

const [, , target, protocol] = process.argv;
const peer = new WebSocket(target, protocol);
peer.binaryType = 'arraybuffer';
const sizes = [0, 1, 125, 126, 65535, 65536, 1 << 20, 4 << 20];
const sent = Buffer.concat(sizes.map((size) => Buffer.alloc(size, `${size} bytes, `)));
const parts = [];
let left = sent.length;
peer.onopen = () => {
  let at = 0;
  for (const size of sizes) {
    peer.send(sent.subarray(at, at + size));
    at += size;
  }
};
peer.onmessage = (event) => {
  parts.push(Buffer.from(event.data));
  left -= event.data.byteLength;
  if (left > 0) return;
  assert(Buffer.concat(parts).equals(sent), 'other bytes came back');
  peer.close(3000, 'enough');
};
peer.onerror = (event) => {
  console.error(event.message || event.error || 'error');
  process.exit(1);
};
peer.onclose = (event) => console.log('done', peer.protocol || '-', event.code, event.wasClean);
