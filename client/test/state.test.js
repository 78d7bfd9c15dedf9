// The session over its legs: what PROTOCOL.md says, message by message.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { open, settle } from './fake.js';

beforeEach(() => mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1e12 }));
afterEach(() => mock.timers.reset());

const tick = (ms = 0) => mock.timers.tick(ms);
const stable = () => tick(5000); // a leg that lived this long is retried at once

test('a drop is invisible, and the resume asks for what has not come', () => {
  const { socket, WebSocket, seen } = open({}, 'app');
  WebSocket.last.welcome({ protocol: 'app' });
  for (const text of ['a', 'b', 'c']) WebSocket.last.receive(text);
  stable();
  WebSocket.last.lose();
  assert.equal(socket.state, 'away');
  assert.equal(socket.readyState, 1);
  tick();
  assert.deepEqual(WebSocket.last.protocols, ['tideover.v1', 'tideover.resume.T1.3', 'app']);
  WebSocket.last.welcome({ token: 'T2', resumed: true, protocol: 'app' });
  assert.equal(socket.state, 'connected');
  WebSocket.last.receive('d');
  assert.deepEqual(seen, ['open', 'a', 'b', 'c', 'd']);
  stable();
  WebSocket.last.lose();
  tick();
  assert.equal(WebSocket.last.protocols[1], 'tideover.resume.T2.4', 'the token is the newest');
});

test('a resume with zero messages either way', () => {
  const { WebSocket, seen } = open();
  WebSocket.last.welcome();
  stable();
  WebSocket.last.lose();
  tick();
  assert.equal(WebSocket.last.protocols[1], 'tideover.resume.T1.0');
  WebSocket.last.welcome({ token: 'T2', resumed: true });
  assert.deepEqual(WebSocket.last.data, []);
  assert.deepEqual(seen, ['open']);
});

test('the welcome trims what arrived, and the rest is sent again before anything newer', async () => {
  const { socket, WebSocket } = open();
  const counts = [];
  socket.onpending = () => counts.push(socket.pending);
  WebSocket.last.welcome();
  for (const text of ['1', '2', '3', '4']) socket.send(text);
  WebSocket.last.control({ type: 'ack', received: 1 });
  await settle();
  assert.equal(socket.pending, 3);
  stable();
  WebSocket.last.lose();
  socket.send('5');
  await settle();
  assert.equal(socket.bufferedAmount, 4);
  tick();
  assert.deepEqual(WebSocket.last.sent, [], 'nothing before the welcome');
  socket.send('6');
  WebSocket.last.welcome({ token: 'T2', resumed: true, received: 2 });
  socket.send('7');
  assert.deepEqual(WebSocket.last.data, ['3', '4', '5', '6', '7']);
  WebSocket.last.control({ type: 'ack', received: 7 });
  assert.equal(socket.pending, 0);
  assert.equal(socket.bufferedAmount, 0);
  await settle();
  assert.deepEqual(counts, [3, 4, 0], 'one event for each turn in which it changed');
});

test('a leg lost before its welcome changes nothing', () => {
  const { socket, WebSocket } = open();
  WebSocket.last.welcome();
  socket.send('1');
  stable();
  WebSocket.last.lose();
  tick();
  WebSocket.last.open('tideover.v1');
  WebSocket.last.lose();
  tick(60000);
  assert.equal(WebSocket.last.protocols[1], 'tideover.resume.T1.0', 'the token was not used up');
  WebSocket.last.welcome({ token: 'T2', resumed: true, received: 1 });
  assert.deepEqual(WebSocket.last.data, []);
  assert.equal(socket.pending, 0);
});

test('text that starts with the mark is escaped both ways', () => {
  const { socket, WebSocket, seen } = open();
  WebSocket.last.welcome();
  socket.send('\x1e{"type":"ping"}');
  socket.send('\x1e');
  socket.send(new Uint8Array([0x1e, 1]));
  assert.deepEqual(WebSocket.last.sent.slice(0, 2), ['\x1e\x1e{"type":"ping"}', '\x1e\x1e']);
  assert.deepEqual([...WebSocket.last.sent[2]], [0x1e, 1], 'bytes are left alone');
  WebSocket.last.receive('\x1e\x1e{"type":"ping"}');
  WebSocket.last.receive('\x1e\x1e');
  WebSocket.last.receive('\x1e\x1e\x1e');
  assert.deepEqual(seen.slice(1), ['\x1e{"type":"ping"}', '\x1e', '\x1e\x1e']);
});

test('the first message is acknowledged at once, those right behind it together', () => {
  const { WebSocket } = open();
  WebSocket.last.welcome();
  const leg = WebSocket.last;
  for (let i = 0; i < 10; i++) leg.receive('x');
  assert.deepEqual(leg.controls, [{ type: 'ack', received: 1 }]);
  tick(200);
  assert.deepEqual(leg.controls.slice(1), [{ type: 'ack', received: 10 }]);
  tick(1000);
  assert.equal(leg.controls.length, 2, 'nothing new, no ack');
});

test('64 KiB are acknowledged without waiting, whatever they are made of', () => {
  for (const message of [new ArrayBuffer(16384), '€'.repeat(5462)]) {
    const { WebSocket } = open();
    WebSocket.last.welcome();
    const leg = WebSocket.last;
    leg.receive('first');
    for (let i = 0; i < 4; i++) leg.receive(message);
    assert.deepEqual(leg.controls.at(-1), { type: 'ack', received: 5 });
  }
});

test('small messages are acknowledged before they fill a window, whatever timers do', () => {
  const { WebSocket } = open();
  WebSocket.last.welcome();
  for (let i = 0; i < 1000; i++) WebSocket.last.receive('');
  const acked = WebSocket.last.controls.map(({ received }) => received);
  assert.ok(acked.at(-1) > 900 && acked.length < 30, `${acked}`);
});

test('acks do not need timers, which background tabs hold back', () => {
  const { WebSocket } = open();
  WebSocket.last.welcome();
  const leg = WebSocket.last;
  leg.receive('1');
  mock.timers.setTime(Date.now() + 100);
  leg.receive('2');
  mock.timers.setTime(Date.now() + 150); // moves the clock, fires no timer
  leg.receive('3');
  assert.deepEqual(leg.controls.map(({ received }) => received), [1, 3]);
});

test('what an acknowledged message of a lost leg would have said is said by the resume', () => {
  const { WebSocket } = open();
  WebSocket.last.welcome();
  const first = WebSocket.last;
  first.receive('1');
  first.receive('2');
  first.lose();
  tick(60000);
  assert.deepEqual(first.controls, [{ type: 'ack', received: 1 }], 'no ack on a leg that is gone');
  assert.equal(WebSocket.last.protocols[1], 'tideover.resume.T1.2');
});

test('nothing is sent before the welcome, not even an ack that was due', () => {
  const { WebSocket } = open();
  WebSocket.last.welcome();
  stable();
  WebSocket.last.receive('1');
  WebSocket.last.receive('2');
  WebSocket.last.lose();
  tick();
  WebSocket.last.open('tideover.v1');
  tick(1000);
  assert.deepEqual(WebSocket.last.sent, []);
});

test('ping is answered; unknown control types and unknown fields are ignored', () => {
  const { WebSocket, seen } = open();
  WebSocket.last.welcome({ later: 1 });
  WebSocket.last.control({ type: 'ping' });
  WebSocket.last.control({ type: 'weather', sun: true });
  WebSocket.last.control({ type: 'pong' });
  assert.deepEqual(WebSocket.last.controls, [{ type: 'pong' }]);
  assert.deepEqual(seen, ['open']);
});

const broken = {
  'malformed JSON': ['\x1e{'],
  'no JSON': ['\x1e'],
  'JSON that is no object': ['\x1e5', '\x1enull', '\x1e"ack"', '\x1e[]'],
  'no type': ['\x1e{}', '\x1e{"type":5}'],
  'an ack beyond what was sent': ['\x1e{"type":"ack","received":3}'],
  'an ack that is no number': [
    '\x1e{"type":"ack"}', '\x1e{"type":"ack","received":"1"}', '\x1e{"type":"ack","received":0.5}',
    '\x1e{"type":"ack","received":null}', '\x1e{"type":"ack","received":1e99}',
  ],
  'a second welcome': ['\x1e{"type":"welcome","token":"T2","resumed":true,"received":0}'],
  'a gap that does not follow': [
    '\x1e{"type":"gap","from":2,"to":3}', '\x1e{"type":"gap","from":1,"to":0}', '\x1e{"type":"gap","from":1}',
  ],
};
for (const [name, messages] of Object.entries(broken)) {
  test(`protocol error: ${name}`, () => {
    for (const message of messages) {
      const { socket, WebSocket, seen } = open({ onSessionLost: 'continue' });
      WebSocket.last.welcome();
      socket.send('1');
      socket.send('2');
      WebSocket.last.receive(message);
      assert.deepEqual(WebSocket.last.closedWith, [4002, undefined], message);
      assert.deepEqual(seen, ['open', 'error', ['close', 1002, '', false]], message);
      tick(1e6);
      assert.equal(WebSocket.legs.length, 1, `${message}: no retry`);
    }
  });
}

test('protocol error: a welcome that does not fit', () => {
  const first = (message) => ({ token: 'T1', resumed: false, received: 0, ...message });
  for (const message of [
    first({ received: 1 }), first({ received: undefined }), first({ resumed: true }),
    first({ token: undefined }), first({ token: '' }), first({ token: 'a b' }),
  ]) {
    const { WebSocket, seen } = open();
    WebSocket.last.welcome(message);
    assert.deepEqual(WebSocket.last.closedWith, [4002, undefined], JSON.stringify(message));
    assert.deepEqual(seen, ['error', ['close', 1002, '', false]]);
  }
  const again = (message) => ({ token: 'T2', resumed: true, received: 1, ...message });
  for (const message of [again({ received: 3 }), again({ received: 0 }), again({ resumed: false, received: 1 })]) {
    const { socket, WebSocket, seen } = open();
    WebSocket.last.welcome();
    socket.send('1');
    socket.send('2');
    WebSocket.last.control({ type: 'ack', received: 1 });
    stable();
    WebSocket.last.lose();
    tick();
    socket.send('3');
    WebSocket.last.welcome(message);
    assert.deepEqual(WebSocket.last.closedWith, [4002, undefined], JSON.stringify(message));
    assert.deepEqual(seen.at(-1), ['close', 1002, '', false]);
  }
});

test('an old ack says nothing new', () => {
  const { socket, WebSocket, seen } = open();
  WebSocket.last.welcome();
  socket.send('1');
  socket.send('2');
  for (const received of [2, 1, 0]) WebSocket.last.control({ type: 'ack', received });
  assert.equal(socket.pending, 0);
  assert.deepEqual(seen, ['open']);
});

test('a gap is told, and the count goes on behind it', () => {
  const { WebSocket, seen } = open();
  WebSocket.last.welcome();
  WebSocket.last.receive('1');
  stable();
  WebSocket.last.lose();
  tick();
  WebSocket.last.welcome({ token: 'T2', resumed: true });
  WebSocket.last.control({ type: 'gap', from: 2, to: 5 });
  WebSocket.last.receive('6');
  assert.deepEqual(seen, ['open', '1', 'gap 2-5', '6']);
  assert.deepEqual(WebSocket.last.controls, [{ type: 'ack', received: 6 }]);
});

test('a leg that was given up cannot touch the session', () => {
  const { socket, WebSocket, seen } = open({ heartbeat: 1000, maxMissed: 0 });
  WebSocket.last.welcome();
  const old = WebSocket.last;
  tick(1000);
  assert.deepEqual(old.closedWith, [4408, undefined]);
  assert.equal(socket.state, 'away');
  tick(1000);
  const current = WebSocket.last;
  assert.notEqual(current, old);
  old.receive('late');
  old.control({ type: 'ack', received: 99 });
  old.lose(4409, 'superseded', true);
  current.welcome({ token: 'T2', resumed: true });
  assert.deepEqual(seen, ['open']);
  assert.equal(socket.state, 'connected');
});

test('superseded by a late handshake of its own: resumed after a wait', () => {
  mock.method(Math, 'random', () => 1);
  const { WebSocket, seen } = open();
  WebSocket.last.welcome();
  stable();
  WebSocket.last.lose(4409, 'superseded');
  tick(499);
  assert.equal(WebSocket.legs.length, 1);
  tick(1);
  assert.equal(WebSocket.last.protocols[1], 'tideover.resume.T1.0');
  WebSocket.last.welcome({ token: 'T2', resumed: true });
  assert.deepEqual(seen, ['open']);
  mock.restoreAll();
});

test('superseded again and again: whoever has the token too, this one gives up in the end', () => {
  const { WebSocket, seen } = open({ maxRetries: 5 });
  WebSocket.last.welcome();
  for (let i = 2; i < 7; i++) {
    WebSocket.last.lose(4409, 'superseded');
    tick(1e6);
    WebSocket.last.welcome({ token: `T${i}`, resumed: true });
  }
  WebSocket.last.lose(4409, 'superseded');
  assert.deepEqual(seen, ['open', 'error', ['close', 1006, '', false]]);
});

test('an application that closes with a code of the proxy: its own code is told once the session is known to be gone', () => {
  for (const [code, onSessionLost] of [[4409, 'close'], [4409, 'continue'], [1012, 'close']]) {
    const { WebSocket, seen } = open({ onSessionLost });
    WebSocket.last.welcome();
    WebSocket.last.lose(code, 'conflict');
    tick(1000);
    WebSocket.last.open('tideover.v1');
    WebSocket.last.lose(4404, 'received=0');
    tick(1e6);
    assert.deepEqual(seen, ['open', ['close', code, 'conflict', true]]);
    assert.equal(WebSocket.legs.length, 2);
  }
});

test('a restart of the proxy: resume soon, spread by chance', () => {
  mock.method(Math, 'random', () => 0.5);
  const { WebSocket, seen } = open();
  WebSocket.last.welcome();
  stable();
  WebSocket.last.lose(1012, 'restart');
  tick(249);
  assert.equal(WebSocket.legs.length, 1);
  tick(1);
  assert.equal(WebSocket.last.protocols[1], 'tideover.resume.T1.0');
  assert.deepEqual(seen, ['open']);
  mock.restoreAll();
});

for (const [code, reason] of [[4404, 'session gone'], [1013, 'window overflow']]) {
  test(`session lost with ${code}: closes by default`, () => {
    const { socket, WebSocket, seen } = open();
    WebSocket.last.welcome();
    socket.send('1');
    stable();
    WebSocket.last.lose();
    tick();
    WebSocket.last.open('tideover.v1');
    WebSocket.last.lose(code, reason);
    tick(1e6);
    assert.deepEqual(seen, ['open', ['close', code, reason, true]]);
    assert.equal(WebSocket.legs.length, 2);
    assert.equal(socket.pending, 1, 'still true');
  });
}

test("session lost: 'continue' starts anew with what was never acknowledged", () => {
  const { socket, WebSocket, seen } = open({ onSessionLost: 'continue' });
  WebSocket.last.welcome();
  for (const text of ['1', '2', '3']) socket.send(text);
  WebSocket.last.receive('x');
  WebSocket.last.control({ type: 'ack', received: 1 });
  stable();
  WebSocket.last.lose();
  socket.send('4');
  tick();
  WebSocket.last.open('tideover.v1');
  WebSocket.last.lose(4404, 'session gone');
  assert.equal(socket.state, 'away');
  tick();
  assert.deepEqual(WebSocket.last.protocols, ['tideover.v1']);
  WebSocket.last.welcome({ session: 'other', token: 'N1' });
  assert.deepEqual(WebSocket.last.data, ['2', '3', '4']);
  assert.deepEqual(seen, ['open', 'x', 'sessionlost']);
  WebSocket.last.control({ type: 'ack', received: 2 });
  assert.equal(socket.pending, 1, 'the new session counts from 1');
  stable();
  WebSocket.last.lose();
  tick();
  assert.equal(WebSocket.last.protocols[1], 'tideover.resume.N1.0');
});

test("over a limit: 'continue' asks for the old session first, which knows what it accepted", () => {
  mock.method(Math, 'random', () => 1);
  const { socket, WebSocket, seen } = open({ onSessionLost: 'continue' });
  WebSocket.last.welcome();
  for (const text of ['1', '2', '3']) socket.send(text);
  stable();
  WebSocket.last.lose(1013, 'window overflow');
  assert.deepEqual([socket.state, ...seen], ['away', 'open']);
  tick(499);
  assert.equal(WebSocket.legs.length, 1, 'not at once');
  tick(1);
  assert.equal(WebSocket.last.protocols[1], 'tideover.resume.T1.0');
  WebSocket.last.open('tideover.v1');
  WebSocket.last.lose(4404, 'received=2');
  assert.deepEqual(seen, ['open', 'sessionlost']);
  tick();
  WebSocket.last.welcome({ token: 'N1' });
  assert.deepEqual(WebSocket.last.data, ['3']);
  mock.restoreAll();
});

test("over a limit again and again: 'continue' waits longer each time, and gives up", () => {
  mock.method(Math, 'random', () => 1);
  const { WebSocket, seen } = open({ onSessionLost: 'continue', maxRetries: 3 });
  WebSocket.last.welcome();
  stable();
  for (const wait of [500, 1000, 2000]) {
    WebSocket.last.lose(1013);
    const { length } = WebSocket.legs;
    tick(wait - 1);
    assert.equal(WebSocket.legs.length, length, `${wait} ms`);
    tick(1);
    assert.equal(WebSocket.legs.length, length + 1, `${wait} ms`);
    WebSocket.last.welcome({ token: `T${wait}`, resumed: true });
  }
  WebSocket.last.lose(1013);
  assert.deepEqual(seen, ['open', 'error', ['close', 1006, '', false]]);
  mock.restoreAll();
});

test("'continue' leaves out what the proxy says it accepted before it forgot the session", () => {
  const { socket, WebSocket } = open({ onSessionLost: 'continue' });
  WebSocket.last.welcome();
  for (const text of ['1', '2', '3']) socket.send(text);
  stable();
  WebSocket.last.lose();
  socket.send('4');
  tick();
  WebSocket.last.open('tideover.v1');
  WebSocket.last.lose(4404, 'received=2');
  tick();
  WebSocket.last.welcome({ token: 'N1' });
  assert.deepEqual(WebSocket.last.data, ['3', '4']);
});

test('send while away is bounded, and says so', () => {
  const { socket, WebSocket } = open({ maxBuffered: 10 });
  WebSocket.last.welcome();
  socket.send('x'.repeat(20)); // not away: as WebSocket
  WebSocket.last.control({ type: 'ack', received: 1 });
  stable();
  WebSocket.last.lose();
  socket.send('ä'.repeat(4));
  socket.send('yy');
  assert.throws(() => socket.send('z'), { name: 'QuotaExceededError' });
  assert.equal(socket.pending, 2);
  assert.equal(socket.bufferedAmount, 10);
  tick();
  WebSocket.last.welcome({ token: 'T2', resumed: true, received: 1 });
  socket.send('more');
  assert.deepEqual(WebSocket.last.data, ['ä'.repeat(4), 'yy', 'more']);
});

test('close while away makes one more try, for what is pending', () => {
  const { socket, WebSocket, seen } = open();
  WebSocket.last.welcome();
  WebSocket.last.lose();
  socket.send('bye');
  socket.close(3001, 'leaving');
  assert.equal(WebSocket.legs.length, 2, 'at once');
  WebSocket.last.welcome({ token: 'T2', resumed: true });
  assert.deepEqual(WebSocket.last.data, ['bye']);
  assert.deepEqual(WebSocket.last.closedWith, [3001, 'leaving']);
  WebSocket.last.lose(3001, 'leaving', true);
  assert.deepEqual(seen, ['open', ['close', 3001, 'leaving', true]]);
});

test('close while away gives up when that try fails', () => {
  const { socket, WebSocket, seen } = open();
  WebSocket.last.welcome();
  WebSocket.last.lose();
  socket.close();
  WebSocket.last.lose();
  tick(1e6);
  assert.equal(WebSocket.legs.length, 2);
  assert.deepEqual(seen, ['open', 'error', ['close', 1006, '', false]]);
});

test('a drop while the last words of a close are under way: one more try', () => {
  for (const drop of [1006, 1012]) {
    const { socket, WebSocket, seen } = open();
    WebSocket.last.welcome();
    socket.send('1');
    socket.send('2');
    socket.close(3001, 'bye');
    assert.deepEqual(WebSocket.last.closedWith, [3001, 'bye']);
    WebSocket.last.lose(drop);
    assert.equal(WebSocket.last.protocols[1], 'tideover.resume.T1.0');
    assert.deepEqual([socket.readyState, socket.state, ...seen], [2, 'away', 'open']);
    WebSocket.last.welcome({ token: 'T2', resumed: true, received: 1 });
    WebSocket.last.receive('too late');
    assert.deepEqual(WebSocket.last.data, ['2']);
    assert.deepEqual(WebSocket.last.closedWith, [3001, 'bye']);
    WebSocket.last.control({ type: 'ack', received: 2 });
    WebSocket.last.lose(3001, 'bye', true);
    assert.equal(socket.pending, 0);
    assert.deepEqual(seen, ['open', ['close', 3001, 'bye', true]]);
  }
});

test('only one more try, and a session that is gone by then has taken what it says', () => {
  for (const [code, pending] of [[1006, 2], [4404, 1]]) {
    const { socket, WebSocket, seen } = open();
    WebSocket.last.welcome();
    socket.send('1');
    socket.send('2');
    socket.close();
    WebSocket.last.lose();
    WebSocket.last.open('tideover.v1');
    if (code === 1006) WebSocket.last.control({ type: 'welcome', token: 'T2', resumed: true, received: 0 });
    WebSocket.last.lose(code, code === 4404 ? 'received=1' : '');
    tick(1e6);
    assert.equal(WebSocket.legs.length, 2);
    assert.equal(socket.pending, pending);
    assert.deepEqual(seen, ['open', 'error', ['close', 1006, '', false]]);
  }
});

test('close from within the events of a drop', () => {
  for (const type of ['statechange', 'sessionlost']) {
    const { socket, WebSocket, seen } = open({ onSessionLost: 'continue' });
    WebSocket.last.welcome();
    socket.addEventListener(type, () => socket.state === 'away' && socket.close());
    WebSocket.last.lose(4404);
    tick(1e6);
    assert.equal(WebSocket.legs.length, 2, 'one more try, not two');
    assert.deepEqual(seen.at(-1), ['close', 1006, '', false]);
  }
});

test('close between two tries to connect for the first time', () => {
  const { socket, WebSocket, seen } = open({ plain: true });
  WebSocket.last.lose();
  tick();
  WebSocket.last.lose();
  socket.close();
  assert.deepEqual(seen, []);
  tick(1e6);
  assert.deepEqual(seen, ['error', ['close', 1006, '', false]]);
  assert.equal(WebSocket.legs.length, 2);
});

// Servers that are no Tideover.

test('a handshake that fails is tried again at once without the own protocol, and so on in turn', () => {
  mock.method(Math, 'random', () => 1);
  const { WebSocket } = open({}, 'app');
  for (const wait of [0, 1000, 2000]) {
    assert.deepEqual(WebSocket.last.protocols, ['tideover.v1', 'app']);
    WebSocket.last.lose();
    assert.deepEqual(WebSocket.last.protocols, ['app']);
    WebSocket.last.lose();
    tick(wait);
  }
  assert.equal(WebSocket.legs.length, 7);
  mock.restoreAll();
});

test('plain reconnecting and buffering', async () => {
  const { socket, WebSocket, seen } = open({}, 'app');
  WebSocket.last.lose();
  WebSocket.last.open('app');
  assert.equal(socket.protocol, 'app');
  socket.send('1');
  WebSocket.last.receive('\x1e{"type":"welcome"}');
  assert.equal(socket.pending, 0, 'nobody acknowledges');
  stable();
  tick(120000);
  assert.deepEqual(WebSocket.last.sent, ['1'], 'no acks and no pings');
  WebSocket.last.lose(1001, 'going away');
  socket.send('2');
  socket.send('\x1e3');
  await settle();
  assert.equal(socket.pending, 2);
  tick();
  assert.deepEqual(WebSocket.last.protocols, ['tideover.v1', 'app'], 'it may have become a Tideover');
  WebSocket.last.lose();
  assert.deepEqual(WebSocket.last.protocols, ['app']);
  WebSocket.last.open('app');
  assert.deepEqual(WebSocket.last.sent, ['2', '\x1e3']);
  assert.equal(socket.pending, 0);
  assert.deepEqual(seen, ['open', '\x1e{"type":"welcome"}']);
  WebSocket.last.lose(1000, 'done', true);
  assert.deepEqual(seen.at(-1), ['close', 1000, 'done', true]);
});

test('a plain server that has become a Tideover counts from 1', () => {
  const { socket, WebSocket } = open();
  WebSocket.last.lose();
  WebSocket.last.open();
  socket.send('before');
  stable();
  WebSocket.last.lose();
  socket.send('1');
  tick();
  WebSocket.last.welcome();
  assert.deepEqual(WebSocket.last.data, ['1']);
  WebSocket.last.control({ type: 'ack', received: 1 });
  assert.equal(socket.pending, 0);
});

test('nothing goes to a plain leg that is closing', () => {
  const { socket, WebSocket } = open({ plain: true });
  WebSocket.last.open();
  WebSocket.last.readyState = 2;
  socket.send('1');
  assert.equal(socket.pending, 1);
  WebSocket.last.lose();
  tick(1000);
  WebSocket.last.open();
  assert.deepEqual(WebSocket.last.sent, ['1']);
});

test('a server that selects any subprotocol is found out by its first message', () => {
  const { WebSocket, seen } = open();
  const leg = WebSocket.last;
  leg.open('tideover.v1');
  leg.receive('hello');
  assert.deepEqual(leg.closedWith, [4408, undefined]);
  assert.deepEqual(WebSocket.last.protocols, []);
  WebSocket.last.open();
  WebSocket.last.receive('hello');
  assert.deepEqual(seen, ['open', 'hello']);
});

test('a server that selects any subprotocol and waits is found out after five seconds, twice', () => {
  const { WebSocket, seen } = open();
  WebSocket.last.open('tideover.v1');
  tick(4999);
  assert.equal(WebSocket.legs.length, 1);
  tick(1);
  tick();
  assert.deepEqual(WebSocket.last.protocols, ['tideover.v1']);
  WebSocket.last.open('tideover.v1');
  tick(5000);
  assert.deepEqual(WebSocket.last.protocols, []);
  WebSocket.last.open();
  assert.deepEqual(seen, ['open']);
  assert.equal(WebSocket.legs.length, 3);
});

// As on a busy machine: taken for a plain server, the first drop would have been the end.
for (const strict of [false, true]) {
  test(`a first welcome that comes too late makes no plain server of a Tideover${strict ? ', strict' : ''}`, () => {
    for (const slow of [(leg) => leg.open('tideover.v1'), () => {}]) { // the welcome, the handshake
      const { WebSocket, seen } = open({ strict });
      slow(WebSocket.last);
      tick(15000);
      tick();
      assert.deepEqual(WebSocket.last.protocols, ['tideover.v1']);
      WebSocket.last.welcome();
      WebSocket.last.lose();
      tick(1000);
      assert.deepEqual(WebSocket.last.protocols, ['tideover.v1', 'tideover.resume.T1.0']);
      assert.deepEqual(seen, ['open']);
    }
  });
}

test('a Tideover that was lost between handshake and welcome is not taken for a plain server', () => {
  const { WebSocket } = open();
  WebSocket.last.open('tideover.v1');
  WebSocket.last.lose();
  tick();
  assert.deepEqual(WebSocket.last.protocols, ['tideover.v1']);
});

test('plain: never offers the protocol', () => {
  const { WebSocket } = open({ plain: true }, 'app');
  WebSocket.last.lose();
  tick();
  assert.deepEqual(WebSocket.legs.map(({ protocols }) => protocols), [['app'], ['app']]);
});

// strict: what injection uses.

test('strict: a first connection that fails is an error at once', () => {
  const { WebSocket, seen } = open({ strict: true });
  WebSocket.last.lose();
  assert.deepEqual(seen, []);
  WebSocket.last.lose();
  assert.deepEqual(seen, ['error', ['close', 1006, '', false]]);
  tick(1e6);
  assert.equal(WebSocket.legs.length, 2);
});

test('strict: a plain server is as it was without the client', () => {
  for (const [code, clean] of [[1006, false], [1001, true], [1012, true], [1013, true], [4404, true]]) {
    const { WebSocket, seen } = open({ strict: true });
    WebSocket.last.lose();
    WebSocket.last.open();
    WebSocket.last.lose(code, '', clean);
    tick(1e6);
    assert.deepEqual(seen.at(-1), ['close', code, '', clean]);
    assert.equal(seen.includes('error'), !clean);
    assert.equal(WebSocket.legs.length, 2);
  }
});

test('strict: a session is resumed', () => {
  const { WebSocket, seen } = open({ strict: true });
  WebSocket.last.welcome();
  stable();
  WebSocket.last.lose();
  tick();
  WebSocket.last.welcome({ token: 'T2', resumed: true });
  assert.deepEqual(seen, ['open']);
});

test('strict: a gap is a lost session', () => {
  const { WebSocket, seen } = open({ strict: true });
  WebSocket.last.welcome();
  WebSocket.last.control({ type: 'gap', from: 1, to: 2 });
  assert.deepEqual(WebSocket.last.closedWith, [1000, undefined]);
  assert.deepEqual(seen, ['open', 'error', ['close', 1006, '', false]]);
});

test('strict: a full buffer closes the socket, as the standard says, and send does not throw', () => {
  const { socket, WebSocket, seen } = open({ strict: true, maxBuffered: 2 });
  WebSocket.last.welcome();
  WebSocket.last.lose();
  socket.send('12');
  socket.send('3');
  socket.send('4');
  assert.equal(socket.readyState, 2);
  assert.equal(socket.bufferedAmount, 4);
  assert.deepEqual(seen, ['open'], 'events come later, never inside send');
  tick();
  assert.deepEqual(seen, ['open', 'error', ['close', 1006, '', false]]);
  tick(1e6);
  assert.equal(WebSocket.legs.length, 1);
});
