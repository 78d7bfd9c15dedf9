// The injected script, built as embed.go builds it, in a page of its own.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import vm from 'node:vm';
import { fakeWebSocket } from './fake.js';

const read = (name) => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8');
const module = read('tideover.js');
const script = `(() => {\n'use strict';\n${module.slice(0, module.indexOf('\nexport '))}\n${read('inject.js')}})();\n`;

/** A window that has run the script. */
function page(href = 'https://example.test/app/') {
  const Native = fakeWebSocket();
  Object.defineProperty(Native, 'name', { value: 'WebSocket' });
  const timers = [];
  const window = Object.assign(new EventTarget(), {
    URL, EventTarget, Event, MessageEvent, DOMException, AbortController, TextEncoder, Blob, queueMicrotask,
    setTimeout: (run) => timers.push(run),
    clearTimeout() {},
    location: new URL(href),
    document: Object.assign(new EventTarget(), { baseURI: href, hidden: false }),
  });
  window.window = window;
  Object.defineProperty(window, 'WebSocket', { value: Native, writable: true, configurable: true, enumerable: false });
  vm.createContext(window);
  const before = Object.getOwnPropertyNames(window);
  vm.runInContext(script, window, { filename: 'inject.js' });
  return { window, Native, before, run: (code) => vm.runInContext(code, window) };
}

test('nothing becomes global but the replaced WebSocket', () => {
  const { window, before } = page();
  assert.deepEqual(Object.getOwnPropertyNames(window), before);
  const { writable, configurable, enumerable } = Object.getOwnPropertyDescriptor(window, 'WebSocket');
  assert.deepEqual({ writable, configurable, enumerable }, { writable: true, configurable: true, enumerable: false });
});

test('a same-origin socket is resilient, and looks like a WebSocket', () => {
  const { window, Native, run } = page();
  for (const url of ['/chat', 'chat', 'wss://example.test/chat', 'wss://example.test:443/', 'https://example.test/x']) {
    const socket = new window.WebSocket(url, 'app', { headers: 'of some other library' });
    assert.equal(Native.last.protocols.join(), 'tideover.v1,app', url);
    assert.ok(socket instanceof window.WebSocket, url);
    assert.ok(!(socket instanceof Native), url);
    assert.equal(socket.constructor, window.WebSocket);
    assert.equal(Object.getPrototypeOf(socket), window.WebSocket.prototype);
    assert.equal(Object.prototype.toString.call(socket), '[object WebSocket]');
  }
  assert.equal(window.WebSocket.name, 'WebSocket');
  assert.equal(window.WebSocket.length, 1);
  assert.deepEqual(run('[WebSocket.CONNECTING, WebSocket.OPEN, WebSocket.CLOSING, WebSocket.CLOSED]').join(), '0,1,2,3');
  assert.equal(run('WebSocket.prototype.OPEN'), 1);
  assert.throws(() => window.WebSocket('/chat'), { name: 'TypeError' });
});

test('other origins get the native one, and it is an instance too', () => {
  const { window, Native } = page();
  for (const url of ['wss://other.test/', 'ws://example.test/', 'wss://example.test:8443/', 'wss://sub.example.test/']) {
    const socket = new window.WebSocket(url, ['app']);
    assert.ok(socket instanceof Native, url);
    assert.ok(socket instanceof window.WebSocket, url);
    assert.equal(socket.protocols.join(), 'app');
  }
  const { window: plain, Native: PlainNative } = page('http://example.test:8080/');
  new plain.WebSocket('ws://example.test:8080/');
  assert.equal(PlainNative.last.protocols.join(), 'tideover.v1');
});

test('the native one complains of what is no URL', () => {
  const { window, Native } = page();
  assert.ok(new window.WebSocket('http://[') instanceof Native);
  assert.ok(new window.WebSocket() instanceof Native);
  assert.throws(() => new window.WebSocket('/chat', 'a b'), { name: 'SyntaxError' });
});

test('subclasses work for both', () => {
  const { window, Native, run } = page();
  const Sub = run(`(class Sub extends WebSocket { hello() { this.send('hello') } })`);
  const near = new Sub('/chat');
  assert.ok(near instanceof Sub && near instanceof window.WebSocket);
  Native.last.welcome();
  near.hello();
  assert.deepEqual(Native.last.data, ['hello']);

  const far = new Sub('wss://other.test/', 'app');
  assert.ok(far instanceof Sub && far instanceof window.WebSocket);
  assert.equal(Native.last.protocols.join(), 'app', 'nothing is added');
  const legs = Native.legs.length;
  Native.last.open('app');
  far.hello();
  assert.deepEqual(Native.last.sent, ['hello']);
  const seen = [];
  far.onclose = ({ code }) => seen.push(code);
  Native.last.lose();
  assert.deepEqual(seen, [1006], 'nothing is retried');
  assert.equal(Native.legs.length, legs);
  assert.ok(!(new window.WebSocket('/chat') instanceof Sub));
  assert.ok(!(new window.WebSocket('wss://other.test') instanceof Sub));
});

test('a patched prototype reaches the sockets of the page', () => {
  const { window, Native, run } = page();
  run(`{ const send = WebSocket.prototype.send; WebSocket.prototype.send = function (data) { return send.call(this, data + '!') } }`);
  const socket = new window.WebSocket('/chat');
  Native.last.welcome();
  socket.send('hello');
  assert.deepEqual(Native.last.data, ['hello!']);
});

test('a second injection, and the module on the same page, build on the native one', async () => {
  const { window, Native, run } = page();
  const first = window.WebSocket;
  run(script);
  assert.equal(window.WebSocket, first);
  const { TideoverSocket } = await import('../tideover.js');
  globalThis.WebSocket = first;
  try {
    new TideoverSocket('wss://example.test/').close();
    Native.last.lose();
  } finally {
    delete globalThis.WebSocket;
  }
  assert.deepEqual(Native.last.protocols, ['tideover.v1']);
});

test('an application that was refused learns it at once', () => {
  const { window, Native } = page();
  const socket = new window.WebSocket('/chat');
  const seen = [];
  socket.onerror = () => seen.push('error');
  socket.onclose = ({ code }) => seen.push(code);
  Native.last.lose();
  Native.last.lose();
  assert.deepEqual(seen, ['error', 1006]);
});
