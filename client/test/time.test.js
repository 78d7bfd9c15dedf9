// Backoff, dead links and the page's own events, on a clock that stands still unless told otherwise.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { open } from './fake.js';

let chance;
beforeEach(() => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1e12 });
  chance = 1;
  mock.method(Math, 'random', () => chance);
});
afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

/** Small steps, as the mocked clock is set to the end of a step before any timer in it runs. */
function tick(ms = 0) {
  for (; ms > 10; ms -= 10) mock.timers.tick(10);
  mock.timers.tick(ms);
}

/** Lets every retry fail, and returns how long each was waited for. */
function waits(WebSocket, most) {
  const out = [];
  while (out.length < most) {
    const legs = WebSocket.legs.length;
    let waited = 0;
    if (WebSocket.last.readyState < 3) WebSocket.last.lose();
    for (tick(); WebSocket.legs.length === legs; tick(1)) {
      if (++waited > 200000) return out;
    }
    out.push(waited);
  }
  return out;
}

/** A session that has lived long enough to be retried at once. */
function session(options) {
  const opened = open(options);
  opened.WebSocket.last.welcome();
  tick(5000);
  return opened;
}

test('the backoff table, at its longest', () => {
  const { WebSocket, seen } = session();
  assert.deepEqual(waits(WebSocket, 99), [0, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]);
  assert.deepEqual(seen, ['open', 'error', ['close', 1006, '', false]], 'ten retries failed');
});

test('full jitter: anything between nothing and the longest', () => {
  for (const [drawn, want] of [[0, [0, 0, 0, 0, 0]], [0.25, [0, 250, 500, 1000, 2000]], [0.5, [0, 500, 1000, 2000, 4000]]]) {
    chance = drawn;
    assert.deepEqual(waits(session().WebSocket, 5), want);
  }
});

test('initialDelay, maxDelay and maxRetries', () => {
  assert.deepEqual(waits(session({ initialDelay: 100, maxDelay: 300, maxRetries: 5 }).WebSocket, 99), [0, 100, 200, 300, 300]);
  assert.deepEqual(waits(session({ maxRetries: 1 }).WebSocket, 99), [0]);
  assert.deepEqual(waits(session({ maxRetries: 0 }).WebSocket, 99), []);
});

test('maxRetries Infinity never gives up', () => {
  const { WebSocket, socket } = session({ maxRetries: Infinity, maxDelay: 50 });
  const all = waits(WebSocket, 2000);
  assert.equal(all.length, 2000);
  assert.ok(all.slice(1).every((ms) => ms <= 50));
  assert.equal(socket.state, 'away');
});

test('a resume that succeeds starts the table anew', () => {
  const { WebSocket } = session();
  assert.deepEqual(waits(WebSocket, 3), [0, 1000, 2000]);
  WebSocket.last.welcome({ token: 'T2', resumed: true });
  tick(5000);
  assert.deepEqual(waits(WebSocket, 3), [0, 1000, 2000]);
});

test('a leg lost right after its welcome is not retried in a tight loop', () => {
  const { WebSocket } = open();
  WebSocket.last.welcome();
  WebSocket.last.receive('news');
  for (let i = 2; i < 50; i++) {
    assert.deepEqual(waits(WebSocket, 1), [500]);
    WebSocket.last.welcome({ token: `T${i}`, resumed: true });
    WebSocket.last.receive('news');
  }
});

test('legs that end at once with nothing received are given up, any message begins the table anew', () => {
  const { WebSocket, seen } = session();
  let tokens = 1;
  const brief = (message) => {
    WebSocket.last.welcome({ token: `T${++tokens}`, resumed: true });
    if (message) WebSocket.last.receive(message);
  };
  WebSocket.last.lose();
  for (const most of [1000, 2000, 4000]) {
    tick();
    brief();
    assert.deepEqual(waits(WebSocket, 1), [most]);
  }
  brief('news');
  assert.deepEqual(waits(WebSocket, 1), [500]);
  for (const most of [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]) {
    brief();
    assert.deepEqual(waits(WebSocket, 1), [most]);
  }
  brief();
  assert.deepEqual(waits(WebSocket, 1), []);
  assert.deepEqual(seen, ['open', 'news', 'error', ['close', 1006, '', false]]);
});

test('the first connection is retried too, in pairs', () => {
  const { WebSocket, seen, socket } = open({ plain: true });
  assert.equal(socket.state, 'connecting');
  assert.deepEqual(waits(WebSocket, 99), [0, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]);
  assert.deepEqual(seen, ['error', ['close', 1006, '', false]]);
});

test('a handshake that hangs is given up', () => {
  const { WebSocket } = session({ connectTimeout: 3000 });
  WebSocket.last.lose();
  tick();
  const hanging = WebSocket.last;
  tick(2999);
  assert.equal(hanging.closedWith, undefined);
  tick(1);
  assert.deepEqual(hanging.closedWith, [4408, undefined]);
  tick(1000);
  assert.equal(WebSocket.legs.length, 3);
});

test('a dead link: two pings without an answer', () => {
  const { socket, WebSocket } = session({ heartbeat: 10000 });
  const leg = WebSocket.last;
  tick(5000);
  assert.deepEqual(leg.controls, [{ type: 'ping' }]);
  tick(10000);
  assert.equal(leg.controls.length, 2);
  tick(9999);
  assert.equal(socket.state, 'connected');
  tick(1);
  assert.equal(socket.state, 'away');
  assert.deepEqual(leg.closedWith, [4408, undefined], 'a code that never ends the session');
});

test('whatever is heard keeps the link alive, and no ping is sent while it talks', () => {
  const { socket, WebSocket } = session({ heartbeat: 10000 });
  const leg = WebSocket.last;
  for (let i = 0; i < 10; i++) {
    leg.control({ type: 'ack', received: 0 });
    tick(10000);
  }
  assert.deepEqual(leg.controls, []);
  tick(10000);
  leg.control({ type: 'pong' });
  tick(30000);
  assert.equal(leg.controls.length, 3);
  assert.equal(socket.state, 'connected');
});

test('heartbeat 0: no pings', () => {
  const { socket, WebSocket } = session({ heartbeat: 0 });
  tick(1e7);
  assert.deepEqual(WebSocket.last.controls, []);
  assert.equal(socket.state, 'connected');
});

test('a machine that slept asks before it takes the link for dead', () => {
  const { socket, WebSocket } = session({ heartbeat: 10000 });
  const leg = WebSocket.last;
  tick(5000 + 10000); // two pings are out
  assert.equal(leg.controls.length, 2);
  mock.timers.setTime(Date.now() + 3600e3); // no timer ran meanwhile
  tick(1);
  assert.equal(leg.controls.length, 3, 'one more ping');
  assert.equal(socket.state, 'connected');
  leg.control({ type: 'pong' });
  tick(5000);
  assert.equal(socket.state, 'connected');
  tick(30000);
  assert.equal(socket.state, 'away', 'and counts from the start again');
});

test('a machine that slept finds a dead link fast, however late its timers are', () => {
  const { socket, WebSocket } = session({ heartbeat: 30000 });
  mock.timers.setTime(Date.now() + 3600e3);
  tick(1);
  assert.deepEqual(WebSocket.last.controls, [{ type: 'ping' }]);
  mock.timers.setTime(Date.now() + 60000); // a throttled tab
  tick(1);
  assert.equal(socket.state, 'away');
});

/** A page: globalThis as a window, with a document. */
function page(t) {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { hidden: true, baseURI: 'https://example.test/' });
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.document = document;
  t.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.document;
  });
  return {
    document,
    fire: (type, fields) => window.dispatchEvent(Object.assign(new Event(type), fields)),
    show(hidden) {
      document.hidden = hidden;
      document.dispatchEvent(new Event('visibilitychange'));
    },
  };
}

test('retries at once when the network is back, the page is seen, or comes back from the cache', (t) => {
  const { fire, show } = page(t);
  for (const back of [() => fire('online'), () => show(false), () => fire('pageshow', { persisted: true })]) {
    const { WebSocket } = session();
    waits(WebSocket, 7);
    WebSocket.last.lose();
    show(true);
    const before = WebSocket.legs.length;
    back();
    assert.equal(WebSocket.legs.length, before + 1);
    back();
    assert.equal(WebSocket.legs.length, before + 1, 'one try at a time');
    WebSocket.last.lose();
    assert.deepEqual(waits(WebSocket, 3), [0, 1000, 2000], 'and the table starts anew');
    fire('pagehide', { persisted: false });
  }
});

test('a handshake that hangs since the network went is given up when it is back, a fresh one is not', (t) => {
  const { fire } = page(t);
  const { WebSocket, seen } = session();
  WebSocket.last.lose();
  tick();
  const hanging = WebSocket.last;
  fire('online');
  assert.equal(WebSocket.last, hanging, 'it has only begun');
  tick(2000);
  fire('online');
  assert.equal(WebSocket.legs.length, 3);
  assert.deepEqual(hanging.closedWith, [4408, undefined]);
  hanging.lose();
  WebSocket.last.welcome({ token: 'T2', resumed: true });
  assert.deepEqual(seen, ['open']);
  fire('pagehide', { persisted: false });
});

test('a page that comes back checks its link, and finds a dead one within five seconds', (t) => {
  const { fire, show } = page(t);
  for (const back of [() => fire('online'), () => show(false)]) {
    const { socket, WebSocket } = session();
    const leg = WebSocket.last;
    back();
    back();
    assert.deepEqual(leg.controls, [{ type: 'ping' }]);
    tick(4999);
    assert.equal(socket.state, 'connected');
    tick(1);
    assert.equal(socket.state, 'away');
    socket.close();
    WebSocket.last.lose();
  }
});

test('a page that comes back and finds its link alive goes on', (t) => {
  const { fire } = page(t);
  const { socket, WebSocket } = session();
  fire('online');
  WebSocket.last.control({ type: 'pong' });
  tick(60000);
  assert.equal(socket.state, 'connected');
  assert.equal(WebSocket.legs.length, 1);
});

test('a page that is left closes with 1000, one that is kept does not', (t) => {
  const { fire } = page(t);
  const { WebSocket, seen } = session();
  fire('pagehide', { persisted: true });
  assert.equal(WebSocket.last.closedWith, undefined);
  fire('pagehide', { persisted: false });
  assert.deepEqual(WebSocket.last.closedWith, [1000, undefined]);
  WebSocket.last.lose(1000, '', true);
  tick(1e6);
  assert.equal(WebSocket.legs.length, 1);
  assert.deepEqual(seen.at(-1), ['close', 1000, '', true]);
});

test('a page that is left while away does not come back', (t) => {
  const { fire } = page(t);
  const { WebSocket } = session();
  WebSocket.last.lose();
  fire('pagehide', { persisted: false });
  tick(1e6);
  fire('online');
  assert.equal(WebSocket.legs.length, 1);
});

test('a closed socket leaves the page alone', (t) => {
  const { fire } = page(t);
  const { WebSocket } = session();
  WebSocket.last.lose(1000, '', true);
  fire('online');
  fire('pagehide', { persisted: false });
  assert.equal(WebSocket.legs.length, 1);
});
