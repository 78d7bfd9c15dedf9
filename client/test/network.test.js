// Real sockets on loopback: exactly once through random cuts, and servers that are no Tideover.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import ws, { WebSocketServer } from 'ws';
import { TideoverSocket } from '../tideover.js';
import { startCutter } from './cutter.js';
import { random } from './fake.js';
import { serve } from './server.js';

const implementations = { ws };
if (globalThis.WebSocket) implementations.global = globalThis.WebSocket;

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);

/** Waits for a condition. The bound is generous: it tells a hang from a slow machine, nothing else. */
async function until(what, condition) {
  for (const end = Date.now() + 120000; !condition(); await sleep(5)) {
    assert.ok(Date.now() < end, `${typeof what === 'string' ? what : what()}: not within two minutes (SEED=${seed})`);
  }
}

/** Message number i, of all kinds and sizes; the same for both sides. */
function message(i) {
  const text = `${i} `;
  if (i % 500 === 0) return text + 'x'.repeat(70000);
  switch (i % 7) {
    case 0:
      return new Blob([text, 'blob']);
    case 1:
      return '\x1e' + text;
    case 2:
      return new TextEncoder().encode(`${text}bytes`);
    case 3:
      return `${text}€\u0000😀`.repeat(1 + (i % 20));
    case 4:
      return '\x1e\x1e{"type":"ack","received":' + text + '}';
    default:
      return text;
  }
}

/** What arrives of it, as text. */
const asText = (data) => (typeof data === 'string' ? data : `bytes:${Buffer.from(data)}`);
const wanted = async (i) => {
  const data = message(i);
  return data instanceof Blob ? `bytes:${await data.text()}` : asText(data);
};

for (const [name, WebSocket] of Object.entries(implementations)) {
  test(`exactly once both ways, through cuts at random bytes (${name}, SEED=${seed})`, async (t) => {
    const COUNT = 10000;
    const server = await serve();
    const cutter = await startCutter(server.port, random(seed), 60000);
    const fromClient = [];
    const fromServer = [];
    const bad = [];
    let session;
    server.onsession = (started) => (session = started);
    server.onmessage = (_, data) => fromClient.push(asText(data));

    const socket = new TideoverSocket(`ws://127.0.0.1:${cutter.port}`, [], {
      WebSocket,
      initialDelay: 5,
      maxDelay: 20,
      maxRetries: Infinity,
      connectTimeout: 500,
      heartbeat: 40,
      maxMissed: 2,
    });
    socket.binaryType = 'arraybuffer';
    socket.onmessage = ({ data }) => fromServer.push(asText(data));
    socket.onerror = () => bad.push('error');
    socket.onclose = ({ code }) => bad.push(`close ${code}`);
    let opened = 0;
    socket.onopen = () => opened++;
    try {
      await until('open', () => socket.readyState === 1 && session);
      // Both keep about a hundred messages on the way, so that every cut finds some.
      let up = 0;
      let down = 0;
      const progress = () =>
        `up ${fromClient.length}/${up}, down ${fromServer.length}/${down}, ${socket.state}, ${JSON.stringify(cutter.cuts)} ${bad}`;
      await until(progress, () => {
        while (up < COUNT && socket.pending < 100 && up - fromClient.length < 100) socket.send(message(++up));
        while (down < COUNT && session.window.length < 100) {
          const data = message(++down);
          session.send(data instanceof Blob ? Buffer.from(`${down} blob`) : data);
        }
        return bad.length || (fromClient.length >= COUNT && fromServer.length >= COUNT);
      });
      assert.deepEqual(bad, [], `the application saw the drops: ${progress()} ${server.violations} (SEED=${seed})`);
      cutter.cutting = false;
      await until('the last acks', () => bad.length || (socket.pending === 0 && session.window.length === 0));

      for (const [direction, got] of Object.entries({ 'to the server': fromClient, 'to the client': fromServer })) {
        for (let i = 1; i <= COUNT; i++) {
          const want = await wanted(i);
          if (got[i - 1] !== want) assert.fail(`${direction}, message ${i}: ${got[i - 1]?.slice(0, 40)}, want ${want.slice(0, 40)} (SEED=${seed})`);
        }
        assert.equal(got.length, COUNT, `${direction}: too many`);
      }
      assert.deepEqual(bad, [], 'the application saw the drops');
      assert.equal(opened, 1);
      assert.deepEqual(server.violations, []);
      const { fin, reset, silent } = cutter.cuts;
      assert.ok(fin > 5 && reset > 5 && silent > 5, `too few cuts to prove anything: ${JSON.stringify(cutter.cuts)}`);
      t.diagnostic(`SEED=${seed} ${JSON.stringify(cutter.cuts)} legs ${server.legs}, sessions ${server.live.size}`);
      socket.close();
      await until('closed', () => socket.readyState === 3);
      assert.deepEqual(bad, ['close 1005']);
    } finally {
      socket.close();
      await cutter.close();
      await server.close();
    }
  });

  test(`an outage longer than the grace: 'continue' sends exactly what was never accepted (${name})`, async () => {
    const server = await serve();
    const got = [];
    server.onmessage = (session, data) => got.push([session, data]);
    server.onsession = (session) => sessions.push(session);
    const sessions = [];
    const socket = new TideoverSocket(`ws://127.0.0.1:${server.port}`, [], { WebSocket, onSessionLost: 'continue', initialDelay: 5 });
    try {
      let lost = 0;
      socket.onsessionlost = () => lost++;
      await until('open', () => socket.readyState === 1);
      for (let i = 1; i <= 5; i++) socket.send(`${i}`);
      await until('five messages', () => got.length === 5);
      sessions[0].end(); // before it acknowledged them
      for (let i = 6; i <= 8; i++) socket.send(`${i}`);
      await until('all acknowledged', () => socket.pending === 0 && got.length >= 8);
      assert.equal(lost, 1);
      assert.equal(sessions.length, 2);
      assert.deepEqual(got.map(([, data]) => data), ['1', '2', '3', '4', '5', '6', '7', '8']);
      assert.equal(got[5][0], sessions[1]);
    } finally {
      socket.close();
      await server.close();
    }
  });

  const foreign = {
    'selects no subprotocol': { handleProtocols: () => false },
    'refuses what it does not know': { verifyClient: ({ req }) => !req.headers['sec-websocket-protocol'] },
    'selects the first whatever it is, and speaks first': { greets: true },
  };
  for (const [what, { greets, ...options }] of Object.entries(foreign)) {
    test(`a server that ${what} (${name})`, async () => {
      const wss = new WebSocketServer({ port: 0, host: '127.0.0.1', ...options });
      await new Promise((resolve) => wss.once('listening', resolve));
      const legs = [];
      const got = [];
      wss.on('connection', (leg) => {
        legs.push(leg);
        leg.on('message', (data) => got.push(`${data}`));
        if (greets) leg.send('hello');
      });
      const heard = [];
      const socket = new TideoverSocket(`ws://127.0.0.1:${wss.address().port}`, [], { WebSocket, initialDelay: 5 });
      socket.onmessage = ({ data }) => heard.push(data);
      try {
        await until('open', () => socket.readyState === 1);
        socket.send('1');
        await until('first message', () => got.length === 1);
        let drops = 0;
        socket.onstatechange = () => (drops += socket.state === 'away');
        assert.equal(socket.protocol, '');
        for (const leg of legs) leg.terminate();
        await until('away', () => drops === 1);
        socket.send('2');
        await until('second message', () => got.length === 2);
        assert.deepEqual(got, ['1', '2']);
        if (greets) await until('greetings', () => heard.length === 2);
      } finally {
        socket.close();
        for (const leg of wss.clients) leg.terminate();
        await new Promise((resolve) => wss.close(resolve));
      }
    });
  }
}
