// The other side of tideover.v1, as PROTOCOL.md describes it: a small reference server for the tests, over npm ws.
// It has no upstream: `onmessage` gets what the client sent, `send` is what an upstream would send.

import { randomBytes } from 'node:crypto';
import { WebSocketServer } from 'ws';

const MARK = 0x1e;
const control = (message) => '\x1e' + JSON.stringify(message);

class Session {
  constructor(server) {
    this.server = server;
    this.tokens = []; // the last one shown, and those given since: any of them may be the one that arrived
    this.received = 0; // of the client's messages
    this.told = 0; // how many of them it was told of
    this.sent = 0; // to the client
    this.window = []; // the last of them, not yet received
    this.leg = undefined;
    this.gone = false;
  }

  get first() {
    return this.sent - this.window.length; // how many are no longer in the window
  }

  send(data) {
    this.sent++;
    this.window.push(data);
    if (this.leg) this.transmit(data);
  }

  transmit(data) {
    this.leg.send(typeof data === 'string' && data[0] === '\x1e' ? '\x1e' + data : data);
  }

  attach(leg, received, shown) {
    this.leg?.close(4409, 'superseded');
    this.leg = leg;
    const token = randomBytes(16).toString('base64url');
    this.tokens = [...this.tokens.slice(Math.max(0, this.tokens.indexOf(shown))), token];
    this.server.sessions.set(token, this);
    leg.send(control({
      type: 'welcome', session: 's', token, resumed: received !== undefined, received: this.received,
      protocol: '', grace_ms: this.server.grace,
    }));
    this.told = this.received;
    this.window.splice(0, (received ?? 0) - this.first);
    for (const data of this.window) this.transmit(data);
    leg.on('message', (data, isBinary) => {
      if (leg === this.leg) this.take(data, isBinary);
    });
    leg.on('error', () => {});
    leg.on('close', (code) => {
      if (leg !== this.leg) return;
      this.leg = undefined;
      if (code !== 1000) this.server.away?.(this);
      else this.end();
    });
  }

  take(data, isBinary) {
    if (!isBinary && data[0] === MARK) {
      if (data[1] !== MARK) return this.takeControl(JSON.parse(data.subarray(1)));
      data = data.subarray(1);
    }
    this.received++;
    this.ackTimer ??= setTimeout(() => this.ack(), 20);
    this.server.onmessage(this, isBinary ? data : data.toString());
  }

  ack() {
    clearTimeout(this.ackTimer);
    this.ackTimer = undefined;
    if (!this.leg || this.told === this.received) return;
    this.told = this.received;
    this.leg.send(control({ type: 'ack', received: this.received }));
  }

  takeControl({ type, received }) {
    if (type === 'ping') this.leg.send(control({ type: 'pong' }));
    if (type !== 'ack') return;
    if (!(received >= this.first && received <= this.sent)) {
      this.server.violations.push(`ack ${received} of ${this.sent}, window from ${this.first}`);
      return this.leg.close(1002);
    }
    this.window.splice(0, received - this.first);
  }

  end() {
    this.gone = true; // the tokens stay, to tell how far it got
    this.leg?.terminate();
    this.leg = undefined;
  }
}

/** Starts a server on a port of its own. */
export async function serve() {
  const wss = new WebSocketServer({
    port: 0,
    host: '127.0.0.1',
    handleProtocols: (offered) => (offered.has('tideover.v1') ? 'tideover.v1' : false),
  });
  await new Promise((resolve) => wss.once('listening', resolve));
  const server = {
    port: wss.address().port,
    grace: 30000,
    sessions: new Map(),
    violations: [],
    legs: 0,
    onmessage() {},
    onsession() {},
    away: undefined,
    get live() {
      return new Set([...this.sessions.values()].filter((session) => !session.gone));
    },
    close: () =>
      new Promise((resolve) => {
        for (const leg of wss.clients) leg.terminate();
        wss.close(resolve);
      }),
  };
  wss.on('connection', (leg, request) => {
    server.legs++;
    leg.on('error', () => {});
    const resume = /tideover\.resume\.([^,\s]+)\.(\d+)/.exec(request.headers['sec-websocket-protocol']);
    if (!resume) {
      const session = new Session(server);
      session.attach(leg);
      server.onsession(session);
      return;
    }
    const session = server.sessions.get(resume[1]);
    const received = Number(resume[2]);
    if (!session) return leg.close(4404, 'no such session');
    if (session.gone) return leg.close(4404, `received=${session.received}`);
    if (received < session.first || received > session.sent) {
      server.violations.push(`resume with ${received} of ${session.sent}, window from ${session.first}`);
      return leg.close(1002);
    }
    if (!session.tokens.includes(resume[1])) return leg.close(4404, 'old token');
    session.attach(leg, received, resume[1]);
  });
  return server;
}
