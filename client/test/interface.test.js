// What the web platform expects of WebSocket: the WebSockets Standard, its IDL, and HTML on event handlers.

import assert from 'node:assert/strict';
import { after, before, mock, test } from 'node:test';
import vm from 'node:vm';
import Default, { TideoverSocket } from '../tideover.js';
import { fakeWebSocket, open, settle } from './fake.js';

// No timer is to fire here: the sockets of these tests are left alone once looked at.
before(() => mock.timers.enable({ apis: ['setTimeout'] }));
after(() => mock.timers.reset());

const make = (url, ...rest) => new TideoverSocket(url, rest[0], { WebSocket: fakeWebSocket() });
const throwsDOM = (name, run) =>
  assert.throws(run, (thrown) => thrown instanceof DOMException && thrown.name === name, `want a ${name}`);

test('constants are on the class and its prototype, enumerable and fixed', () => {
  const want = { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 };
  for (const target of [TideoverSocket, TideoverSocket.prototype]) {
    for (const [name, value] of Object.entries(want)) {
      assert.deepEqual(
        Object.getOwnPropertyDescriptor(target, name),
        { value, writable: false, enumerable: true, configurable: false },
        name,
      );
    }
  }
  assert.equal(make('ws://a').CLOSING, 2);
  assert.equal(Default, TideoverSocket);
});

test('attributes and operations are enumerable properties of the prototype', () => {
  const names = new Set();
  for (const name in make('ws://a')) names.add(name);
  for (const name of [
    'url', 'readyState', 'bufferedAmount', 'extensions', 'protocol', 'binaryType', 'send', 'close',
    'onopen', 'onmessage', 'onerror', 'onclose', 'addEventListener', 'state', 'pending',
  ]) {
    assert.ok(names.has(name), `${name} is not enumerable`);
  }
  assert.equal(TideoverSocket.length, 1, 'only the URL is required');
  assert.equal(Object.getPrototypeOf(TideoverSocket), EventTarget);
});

test('read-only attributes stay as they are', () => {
  const socket = make('ws://a/');
  for (const name of ['url', 'readyState', 'bufferedAmount', 'extensions', 'protocol', 'state', 'pending']) {
    const before = socket[name];
    assert.throws(() => (socket[name] = 'x'), TypeError, name);
    assert.equal(socket[name], before, name);
  }
});

test('the URL is resolved and normalised', () => {
  assert.equal(make('WS://Example.test:80/a b').url, 'ws://example.test/a%20b');
  assert.equal(make('http://example.test').url, 'ws://example.test/');
  assert.equal(make('https://example.test/x?y').url, 'wss://example.test/x?y');
  assert.equal(make(new URL('wss://example.test:443')).url, 'wss://example.test/');
  globalThis.document = { baseURI: 'https://example.test/app/page', addEventListener() {} };
  try {
    assert.equal(make('/chat').url, 'wss://example.test/chat');
    assert.equal(make('chat').url, 'wss://example.test/app/chat');
  } finally {
    delete globalThis.document;
  }
});

test('a bad URL is a SyntaxError, a missing one a TypeError', () => {
  for (const url of ['', '/relative', 'ftp://a', 'mailto:a@b', 'ws://', 'ws://a:99999', 'ws://a/#', 'ws://a/#part']) {
    throwsDOM('SyntaxError', () => make(url));
  }
  assert.throws(() => new TideoverSocket(), TypeError);
  assert.throws(() => TideoverSocket('ws://a'), TypeError, 'not callable without new');
});

test('a bad or repeated subprotocol is a SyntaxError', () => {
  for (const protocols of [
    '', ' ', 'a b', 'a,b', 'a/b', 'ä', '\x7f', ['a', 'a'], ['a', ''], [null, 'null'], 'tideover.v1', {},
  ]) {
    throwsDOM('SyntaxError', () => make('ws://a', protocols));
  }
  for (const protocols of [undefined, [], 'a', ['a', 'b'], ['a', 'A'], "!#$%&'*+-.^_`|~09azAZ", new Set(['a', 'b'])]) {
    make('ws://a', protocols);
  }
});

test('it offers its own protocol before those of the application', () => {
  const { WebSocket } = open({}, ['graphql-ws', 'b']);
  assert.deepEqual(WebSocket.last.protocols, ['tideover.v1', 'graphql-ws', 'b']);
  assert.equal(WebSocket.last.url, 'ws://example.test/room');
});

test('send before open is an InvalidStateError, without a message a TypeError', () => {
  const { socket, WebSocket } = open();
  throwsDOM('InvalidStateError', () => socket.send('x'));
  WebSocket.last.open('tideover.v1');
  throwsDOM('InvalidStateError', () => socket.send('the welcome has not come'));
  assert.throws(() => socket.send(), TypeError);
});

test('close checks its code and its reason before anything else', () => {
  const { socket, WebSocket } = open();
  WebSocket.last.welcome();
  for (const code of [0, 999, 1001, 1005, 1006, 2999, 5000, 65536, -1, NaN, 'x', null]) {
    throwsDOM('InvalidAccessError', () => socket.close(code));
  }
  throwsDOM('SyntaxError', () => socket.close(1000, 'x'.repeat(124)));
  throwsDOM('SyntaxError', () => socket.close(undefined, 'ä'.repeat(62)));
  assert.equal(socket.readyState, 1, 'a refused close does nothing');
  socket.close('3000', 'ä'.repeat(61));
  assert.equal(socket.readyState, 2);
  assert.deepEqual(WebSocket.last.closedWith, [3000, 'ä'.repeat(61)]);
  socket.close();
  throwsDOM('InvalidAccessError', () => socket.close(1));
});

test('the first open, with the protocol that the application gets', () => {
  const { socket, WebSocket, seen } = open({}, 'chat');
  const states = [];
  socket.onstatechange = () => states.push(socket.state);
  socket.onopen = function (event) {
    assert.equal(this, socket);
    assert.equal(event.target, socket);
    assert.equal(socket.readyState, 1);
  };
  assert.equal(socket.readyState, 0);
  assert.equal(socket.protocol, '');
  WebSocket.last.extensions = 'permessage-deflate';
  WebSocket.last.welcome({ protocol: 'chat' });
  assert.equal(socket.protocol, 'chat');
  assert.equal(socket.extensions, 'permessage-deflate');
  assert.deepEqual(states, ['connected']);
  assert.deepEqual(seen, ['open']);
});

test('event handlers keep their place until they are null, and only functions are called', () => {
  const { socket, WebSocket } = open();
  const order = [];
  assert.equal(socket.onopen, null);
  const first = () => order.push('first');
  socket.onopen = first;
  assert.equal(socket.onopen, first);
  socket.addEventListener('open', { handleEvent: () => order.push('listener') });
  socket.onopen = () => order.push('in its place');
  socket.onmessage = () => order.push('was null for a while');
  socket.addEventListener('message', () => order.push('listener'));
  socket.onmessage = null;
  assert.equal(socket.onmessage, null);
  socket.onmessage = () => order.push('at the end');
  WebSocket.last.welcome();
  WebSocket.last.receive('x');
  assert.deepEqual(order, ['in its place', 'listener', 'listener', 'at the end']);
  // HTML, LegacyTreatNonObjectAsNull: an object is kept but not called, anything else is null.
  const object = { handleEvent: () => order.push('never') };
  socket.onmessage = object;
  assert.equal(socket.onmessage, object);
  WebSocket.last.receive('x');
  assert.equal(order.length, 5, 'the listener alone');
  socket.onmessage = 5;
  assert.equal(socket.onmessage, null);
  socket.onmessage = undefined;
});

test('a message event has data and origin, and binaryType decides what bytes are', async () => {
  const { socket, WebSocket } = open();
  WebSocket.last.welcome();
  const events = [];
  socket.onmessage = (event) => events.push(event);
  assert.equal(socket.binaryType, 'blob');
  const bytes = new Uint8Array([1, 2, 3]).buffer;
  WebSocket.last.receive('text');
  WebSocket.last.receive(bytes);
  socket.binaryType = 'arraybuffer';
  WebSocket.last.receive(bytes);
  socket.binaryType = 'nonsense';
  assert.equal(socket.binaryType, 'arraybuffer', 'a wrong value is ignored');
  assert.ok(events[0] instanceof MessageEvent);
  assert.equal(events[0].data, 'text');
  assert.equal(events[0].origin, 'ws://example.test');
  assert.ok(events[1].data instanceof Blob);
  assert.deepEqual(new Uint8Array(await events[1].data.arrayBuffer()), new Uint8Array([1, 2, 3]));
  assert.equal(events[2].data, bytes);
});

test('every kind of message is sent as WebSocket sends it, in order, and copied at once', async () => {
  const { socket, WebSocket } = open();
  WebSocket.last.welcome();
  const shared = new Uint8Array([1, 2, 3, 4]);
  socket.send('a');
  socket.send(new Blob(['blob']));
  socket.send(shared.subarray(1, 3));
  socket.send(shared.buffer);
  socket.send(new DataView(shared.buffer, 3));
  shared.fill(9);
  socket.send(17);
  socket.send(null);
  socket.send('');
  assert.deepEqual(WebSocket.last.data, ['a'], 'what follows a Blob waits for it');
  assert.equal(socket.bufferedAmount, 4 + 2 + 4 + 1 + 2 + 4);
  await settle();
  const sent = WebSocket.last.data.map((data) => (typeof data === 'string' ? data : [...new Uint8Array(data)]));
  assert.deepEqual(sent, ['a', [...Buffer.from('blob')], [2, 3], [1, 2, 3, 4], [4], '17', 'null', '']);
  assert.equal(socket.bufferedAmount, 0);
  assert.equal(socket.pending, 8);
});

test('a Blob and bytes of another realm are what they are, and what only looks like bytes is text', async () => {
  const { socket, WebSocket } = open();
  WebSocket.last.welcome();
  const foreign = vm.runInNewContext('[new ArrayBuffer(3), new Uint8Array(2)]');
  const blob = Object.create(null, {
    size: { value: 4 }, arrayBuffer: { value: async () => new ArrayBuffer(4) }, [Symbol.toStringTag]: { value: 'Blob' },
  });
  const file = Object.create(blob, { [Symbol.toStringTag]: { value: 'File' } });
  for (const data of [...foreign, blob, file, { byteLength: 3 }, [1, 2]]) socket.send(data);
  await settle();
  const sent = WebSocket.last.data.map((data) => (typeof data === 'string' ? data : data.byteLength));
  assert.deepEqual(sent, [3, 2, 4, 4, '[object Object]', '1,2']);
});

test('close waits for a Blob that was sent before', async () => {
  const { socket, WebSocket } = open();
  WebSocket.last.welcome();
  socket.send(new Blob(['last words']));
  socket.close();
  assert.equal(WebSocket.last.closedWith, undefined);
  await settle();
  assert.equal(WebSocket.last.data.length, 1);
  assert.deepEqual(WebSocket.last.closedWith, [1000, undefined]);
});

test('a Blob that cannot be read fails the socket, as with WebSocket', async () => {
  const { socket, WebSocket, seen } = open();
  WebSocket.last.welcome();
  const blob = new Blob(['x']);
  blob.arrayBuffer = () => Promise.reject(new Error('file is gone'));
  socket.send(blob);
  await settle();
  assert.deepEqual(seen, ['open', 'error', ['close', 1006, '', false]]);
});

test('send after close is silent and counted in bufferedAmount', () => {
  const { socket, WebSocket } = open();
  WebSocket.last.welcome();
  socket.close();
  socket.send('äb');
  assert.equal(socket.bufferedAmount, 3);
  WebSocket.last.lose(1000, '', true);
  socket.send(new Uint8Array(10));
  assert.equal(socket.bufferedAmount, 13);
  assert.deepEqual(WebSocket.last.data, []);
});

test('close without a code: 1000 on the wire, which ends the session, and 1005 in the event', () => {
  const { socket, WebSocket, seen } = open();
  WebSocket.last.welcome();
  socket.close();
  assert.deepEqual(WebSocket.last.closedWith, [1000, undefined]);
  WebSocket.last.receive('too late');
  assert.equal(socket.readyState, 2);
  assert.equal(socket.state, 'connected');
  WebSocket.last.lose(1000, '', true);
  assert.equal(socket.readyState, 3);
  assert.equal(socket.state, 'closed');
  assert.deepEqual(seen, ['open', ['close', 1005, '', true]]);
});

test('the code and the reason of a close come back in its event', () => {
  const { socket, WebSocket, seen } = open();
  WebSocket.last.welcome();
  let event;
  socket.onclose = (closed) => (event = closed);
  socket.close(4001, 'bye');
  WebSocket.last.lose(4001, 'bye', true);
  assert.equal(event.type, 'close');
  assert.ok(!globalThis.CloseEvent || event instanceof globalThis.CloseEvent);
  assert.deepEqual(seen, ['open', ['close', 4001, 'bye', true]]);
});

test('close before open fails the connection', () => {
  const { socket, WebSocket, seen } = open();
  socket.close(3000);
  assert.equal(socket.readyState, 2);
  assert.deepEqual(seen, [], 'events come later, never inside close');
  WebSocket.last.lose();
  assert.deepEqual(seen, ['error', ['close', 1006, '', false]]);
  assert.equal(WebSocket.legs.length, 1);
});

test('close between the handshake and the welcome is a failed connection too', () => {
  const { socket, WebSocket, seen } = open();
  WebSocket.last.open('tideover.v1');
  socket.close();
  assert.deepEqual(WebSocket.last.closedWith, [1000, undefined], 'which ends the session');
  WebSocket.last.lose(1000, '', true);
  assert.deepEqual(seen, ['error', ['close', 1006, '', false]]);
});

test('a server that closes is not called again', () => {
  for (const [code, reason, clean] of [[1000, 'done', true], [1001, '', true], [1005, '', true], [1011, 'x', true], [4000, 'y', true]]) {
    const { socket, WebSocket, seen } = open();
    WebSocket.last.welcome();
    WebSocket.last.lose(code, reason, clean);
    assert.deepEqual(seen, ['open', ['close', code, reason, clean]]);
    assert.equal(socket.readyState, 3);
    assert.equal(WebSocket.legs.length, 1);
  }
});

test('listeners added and removed, once, and dispatchEvent', () => {
  const { socket, WebSocket } = open();
  WebSocket.last.welcome();
  let calls = 0;
  const listener = () => calls++;
  socket.addEventListener('message', listener);
  socket.addEventListener('message', listener);
  socket.addEventListener('message', listener, { once: true, capture: true });
  WebSocket.last.receive('1');
  assert.equal(calls, 2);
  socket.removeEventListener('message', listener);
  WebSocket.last.receive('2');
  assert.equal(calls, 2);
  socket.onmessage = listener;
  socket.dispatchEvent(new MessageEvent('message', { data: 'own' }));
  assert.equal(calls, 3);
});
