// A native WebSocket whose server is the test, and what goes with it.

import { TideoverSocket } from '../tideover.js';

/** Makes a WebSocket class that keeps its instances in `legs`. */
export function fakeWebSocket() {
  return class FakeWebSocket {
    static legs = [];
    static get last() {
      return this.legs.at(-1);
    }

    readyState = 0;
    protocol = '';
    extensions = '';
    bufferedAmount = 0;
    sent = [];
    closedWith;

    constructor(url, protocols) {
      this.url = url;
      this.protocols = protocols;
      this.constructor.legs.push(this);
    }
    send(data) {
      if (this.readyState === 0) throw new DOMException('still connecting', 'InvalidStateError');
      if (this.readyState === 1) this.sent.push(data);
    }
    close(code, reason) {
      if (this.readyState > 1) return;
      this.closedWith = [code, reason];
      this.readyState = 2;
    }

    // The server's side.
    open(protocol = '') {
      this.readyState = 1;
      this.protocol = protocol;
      this.onopen(new Event('open'));
    }
    receive(data) {
      this.onmessage({ data });
    }
    control(message) {
      this.receive('\x1e' + JSON.stringify(message));
    }
    /** Handshake and welcome of a Tideover that has `received` messages of the client. */
    welcome(message = {}) {
      this.open('tideover.v1');
      this.control({ type: 'welcome', session: 's', token: 'T1', resumed: false, received: 0, grace_ms: 30000, ...message });
    }
    lose(code = 1006, reason = '', wasClean = code !== 1006) {
      this.readyState = 3;
      this.onclose({ code, reason, wasClean });
    }
    get data() {
      return this.sent.filter((message) => !isControl(message));
    }
    get controls() {
      return this.sent.filter(isControl).map((message) => JSON.parse(message.slice(1)));
    }
  };
}

const isControl = (message) => message[0] === '\x1e' && message[1] !== '\x1e';

/** A socket over fake legs, and a log of what the application saw. */
export function open(options = {}, protocols = []) {
  const WebSocket = fakeWebSocket();
  const socket = new TideoverSocket('ws://example.test/room', protocols, { WebSocket, ...options });
  const seen = [];
  for (const type of ['open', 'error', 'sessionlost']) socket.addEventListener(type, () => seen.push(type));
  socket.addEventListener('message', ({ data }) => seen.push(data));
  socket.addEventListener('gap', ({ from, to }) => seen.push(`gap ${from}-${to}`));
  socket.addEventListener('close', ({ code, reason, wasClean }) => seen.push(['close', code, reason, wasClean]));
  return { socket, WebSocket, seen };
}

/** Lets promises settle. setImmediate is never mocked. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

/** mulberry32: a small random generator that can be seeded, so that a failure can be run again. */
export function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
