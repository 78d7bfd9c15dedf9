// SPDX-License-Identifier: Apache-2.0

/**
 * A WebSocket that survives drops: the browser client of the Tideover proxy. PROTOCOL.md says what goes over the wire.
 *
 * This file is an ES module as it stands, and the body of a classic script once its last line, the only one that
 * starts with "export", is left out; embed.go does that for pages whose own scripts must find the client already
 * there. So: all exports on that line, no import, no import.meta, no top-level await.
 *
 * A *leg* is one native WebSocket of the session. Its events count only while it is the current leg, so that a leg
 * that was given up cannot touch the session any more.
 */

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

const V1 = 'tideover.v1';
const MARK = '\x1e'; // starts a control message; doubled where the application's own text starts with it
const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/; // RFC 9110 5.6.2, what a subprotocol may be made of
const ACK_MS = 200; // the protocol allows 250, and timers are late
const ACK_BYTES = 65536;
const ACK_EACH = 1024; // a message counts as this much more, so that a window of small ones does not fill up unacknowledged
const WELCOME_MS = 5000; // it is sent right behind the handshake's answer
const PROBE_MS = 5000;
const WAKE_MS = 1000;

const ABNORMAL = 1006; // RFC 6455 7.1.5: no Close came, the connection just went
const RESTART = 1012;
const OVER_LIMIT = 1013;
const SESSION_GONE = 4404;
const SUPERSEDED = 4409;
// A page may send 1000 and 3000-4999 only, so these stand for "broken protocol" (1002) and "this leg seems dead".
const BROKEN = 4002;
const ABANDONED = 4408;

const encoder = new TextEncoder();
const exception = (name, message) => new DOMException(message, name);

// Node has no CloseEvent before version 23.
const CloseEvent =
  globalThis.CloseEvent ??
  class extends Event {
    constructor(type, init) {
      super(type);
      Object.assign(this, init);
    }
  };

/** @type {import('./tideover.d.ts').TideoverOptions} */
const DEFAULTS = {
  initialDelay: 1000,
  maxDelay: 60000,
  maxRetries: 10,
  maxBuffered: 16 << 20,
  connectTimeout: 15000,
  heartbeat: 30000,
  maxMissed: 2,
  onSessionLost: 'close',
};

/**
 * WebSocket's interface over as many legs as it takes. What it adds (`state`, `pending`, their events, the options)
 * is described in tideover.d.ts.
 *
 * @implements {WebSocket}
 */
class TideoverSocket extends EventTarget {
  #options;
  #url;
  #offer; // the application's subprotocols
  #handlers = {}; // type → the listener behind its attribute

  // What the application sees.
  #readyState = CONNECTING;
  #state = 'connecting';
  #protocol = '';
  #extensions = '';
  #binaryType = 'blob';
  #told = 0; // `pending` as the last event had it
  #discarded = 0; // bytes sent after close(): the standard wants them in bufferedAmount

  // The session. Messages are counted from 1 each way; #message alone counts those that come, #trim those that went.
  #token = '';
  #received = 0;
  #acked = 0; // how many of ours the proxy has taken responsibility for
  #queue = []; // the ones after that: {data, size}, data undefined while a Blob is still being read
  #queued = 0; // bytes in #queue
  #sent = 0; // how many of #queue the last welcomed leg was given
  #closing; // arguments of close(), and whether a drop may no longer be followed by one more try

  // The leg.
  #leg;
  #began; // when it began to connect, ms
  #why; // how the last one ended, where that may have been the proxy's doing or the application's
  #plain; // take the server for something else than Tideover
  #since = 0; // when the leg was welcomed, ms; 0: none ever was
  #tries = 0;
  #mark = 0; // #received as the last leg left it
  #timer; // handshake deadline, heartbeat or retry: only ever one of them
  #heard;
  #missed;
  #ackTimer;
  #ackTime;
  #ackBytes;
  #life = new AbortController(); // ends the listeners on the page

  /**
   * @param {string | URL} url
   * @param {string | string[]} [protocols]
   * @param {import('./tideover.d.ts').TideoverOptions} [options]
   */
  constructor(url, protocols = [], options) {
    super();
    if (!arguments.length) throw new TypeError('TideoverSocket: a URL is required');
    const { document, location, WebSocket } = globalThis;
    // The injected script's replacement names what it replaced.
    this.#options = { WebSocket: WebSocket?.tideoverNative ?? WebSocket, ...DEFAULTS, ...options };
    this.#plain = this.#options.plain;
    try {
      this.#url = new URL(new URL(url, document?.baseURI ?? location?.href).href.replace(/^http/, 'ws'));
    } catch {}
    if (!/^wss?:[^#]*$/.test(this.#url)) throw exception('SyntaxError', `TideoverSocket: bad URL ${url}`);
    this.#offer = (Object(protocols)[Symbol.iterator] && typeof protocols == 'object' ? [...protocols] : [protocols]).map(String);
    const seen = new Set([V1]);
    for (const name of this.#offer) {
      if (!TOKEN.test(name) || seen.has(name)) {
        throw exception('SyntaxError', `TideoverSocket: bad or repeated subprotocol ${name}`);
      }
      seen.add(name);
    }

    const listen = (target, type, listener) =>
      target?.addEventListener?.(type, listener, { signal: this.#life.signal });
    listen(globalThis, 'online', () => this.#wake());
    listen(globalThis, 'pageshow', () => this.#wake());
    listen(document, 'visibilitychange', () => document.hidden || this.#wake());
    listen(globalThis, 'pagehide', (event) => event.persisted || this.#leave());
    this.#connect();
  }

  get url() {
    return this.#url.href;
  }
  get readyState() {
    return this.#readyState;
  }
  get bufferedAmount() {
    const leg = this.#state == 'connected' && this.#leg;
    return this.#queue
      .slice(leg ? this.#sent : 0)
      .reduce((sum, { size }) => sum + size, this.#discarded + (leg ? leg.bufferedAmount : 0));
  }
  get extensions() {
    return this.#extensions;
  }
  get protocol() {
    return this.#protocol;
  }
  get binaryType() {
    return this.#binaryType;
  }
  set binaryType(type) {
    if (type == 'blob' || type == 'arraybuffer') this.#binaryType = type;
  }
  /** @returns {'connecting' | 'connected' | 'away' | 'closed'} */
  get state() {
    return this.#state;
  }
  /** @returns {number} messages that are not acknowledged */
  get pending() {
    return this.#queue.length;
  }

  /** @param {string | ArrayBufferLike | Blob | ArrayBufferView} data */
  send(data) {
    if (!arguments.length) throw new TypeError('send: a message is required');
    if (this.#readyState == CONNECTING) throw exception('InvalidStateError', 'send: the socket is not open yet');
    // By name: those of a frame are no instances of ours.
    const kind = Object.prototype.toString.call(data).slice(8, -1);
    const blob = (kind == 'Blob' || kind == 'File') && data;
    // Bytes are copied: the caller may change them before they are sent, or sent again.
    if (ArrayBuffer.isView(data) || kind.endsWith('ArrayBuffer')) {
      data = new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength).slice();
    } else if (!blob) data = `${data}`;
    const size = blob ? blob.size : (data.byteLength ?? encoder.encode(data).length);
    if (this.#readyState == OPEN && this.#state == 'away' && this.#queued + size > this.#options.maxBuffered) {
      if (!this.#options.strict) {
        throw exception('QuotaExceededError', `send: ${this.#queued} bytes wait already, see maxBuffered`);
      }
      this.#leave();
      this.#later(() => this.#end(ABNORMAL), 0);
    }
    if (this.#readyState > OPEN) {
      this.#discarded += size;
      return;
    }
    const item = { data: blob ? undefined : data, size };
    // Later messages wait behind a Blob. It is read once: a file may be gone when it has to be sent again.
    if (blob) {
      blob.arrayBuffer().then(
        (bytes) => {
          item.data = bytes;
          this.#flush();
        },
        () => this.#abort(1000, ABNORMAL),
      );
    }
    this.#queue.push(item);
    this.#queued += size;
    this.#flush();
    this.#tell();
  }

  /**
   * @param {number} [code]
   * @param {string} [reason]
   */
  close(code, reason) {
    if (code !== undefined) {
      code = Math.round(code);
      if (code != 1000 && !(code >= 3000 && code < 5000)) {
        throw exception('InvalidAccessError', 'close: the code must be 1000 or 3000 to 4999');
      }
    }
    if (reason !== undefined && encoder.encode((reason = `${reason}`)).length > 123) {
      throw exception('SyntaxError', 'close: the reason is longer than 123 bytes');
    }
    if (this.#readyState > OPEN) return;
    this.#closing = [code, reason, this.#state != 'connected'];
    this.#readyState = CLOSING;
    if (this.#state == 'connected') this.#flush();
    else if (this.#state == 'away') this.#leg || this.#connect(); // one more try to take what is pending along
    else if (this.#leg) this.#leg.close(1000);
    else this.#later(() => this.#end(ABNORMAL), 0);
  }

  #connect() {
    const options = this.#options;
    this.#began = Date.now();
    if (!this.#token) this.#acked = this.#received = this.#sent = 0;
    const resume = this.#token && [`tideover.resume.${this.#token}.${this.#received}`];
    const offer = this.#plain ? this.#offer : [V1, ...resume, ...this.#offer];
    const leg = (this.#leg = new options.WebSocket(this.url, offer));
    const current = (handle) => (event) => leg == this.#leg && handle(event);
    leg.binaryType = 'arraybuffer';
    leg.onopen = current(() => {
      this.#plain = leg.protocol != V1;
      if (this.#plain) this.#up(leg.protocol);
      else this.#later(() => this.#drop(), WELCOME_MS);
    });
    leg.onmessage = current(({ data }) => this.#message(data));
    leg.onclose = current((event) => this.#lost(event.code, event.reason, event.wasClean));
    leg.onerror = () => {}; // npm ws throws errors that nobody listens to
    this.#later(() => this.#drop(), options.connectTimeout);
  }

  #later(run, delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(run, Math.min(delay, 2 ** 31 - 1)); // more would mean now
  }

  // The leg can carry messages: it was welcomed, or the server is not Tideover.
  #up(protocol) {
    this.#protocol = protocol;
    this.#extensions = this.#leg.extensions;
    this.#since = Date.now();
    this.#sent = this.#ackTime = this.#ackBytes = this.#missed = 0;
    this.#why = undefined;
    clearTimeout(this.#timer);
    if (!this.#plain) this.#watch(this.#options.heartbeat);
    const first = this.#readyState == CONNECTING;
    if (first) this.#readyState = OPEN;
    this.#become('connected');
    if (first) this.dispatchEvent(new Event('open'));
    this.#flush();
  }

  #become(state) {
    if (state == this.#state) return;
    this.#state = state;
    this.dispatchEvent(new Event('statechange'));
  }

  // Once for all that happens in one go.
  #tell() {
    queueMicrotask(() => {
      if (this.#told == this.pending) return;
      this.#told = this.pending;
      this.dispatchEvent(new Event('pending'));
    });
  }

  #flush() {
    const leg = this.#leg;
    const queue = this.#queue;
    if (this.#state != 'connected') return;
    while (leg.readyState == OPEN && queue[this.#sent]?.data !== undefined) {
      const { data } = queue[this.#sent++];
      leg.send(!this.#plain && data[0] == MARK ? MARK + data : data);
    }
    if (this.#plain) this.#trim(this.#acked + this.#sent); // nobody will acknowledge them
    // By default the proxy takes a Close without code for a drop, but this one is meant.
    if (this.#closing && this.#sent == queue.length) leg.close(this.#closing[0] ?? 1000, this.#closing[1]);
  }

  // Our messages up to this number arrived. False: the number is impossible.
  #trim(number) {
    const count = number - this.#acked;
    if (!Number.isInteger(number) || count > this.#sent) return false;
    if (count > 0) {
      for (const { size } of this.#queue.splice(0, count)) this.#queued -= size;
      this.#acked = number;
      this.#sent -= count;
      this.#tell();
    }
    return true;
  }

  #message(data) {
    this.#heard = true;
    if (!this.#plain) {
      if (data[0] == MARK) {
        if (data[1] != MARK) return this.#control(data);
        data = data.slice(1);
      }
      // Data before the welcome: a server that agrees to any subprotocol.
      if (this.#state != 'connected') return this.#drop(true);
      this.#received++;
      this.#ackBytes += ACK_EACH + (data.byteLength ?? data.length * 3); // at most, as UTF-8
    }
    if (this.#readyState == OPEN) {
      if (this.#binaryType == 'blob' && data.byteLength >= 0) data = new Blob([data]);
      this.dispatchEvent(new MessageEvent('message', { data, origin: this.#url.origin }));
    }
    if (this.#plain) return;
    // The clock is asked first, as timers of background tabs may be a minute late.
    if (this.#ackBytes >= ACK_BYTES || Date.now() - this.#ackTime >= ACK_MS) this.#ack();
    else this.#ackTimer ??= setTimeout(() => this.#ack(), ACK_MS);
  }

  #ack() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    this.#ackTime = Date.now();
    this.#ackBytes = 0;
    this.#post({ type: 'ack', received: this.#received });
  }

  #post(message) {
    if (this.#leg?.readyState == OPEN) this.#leg.send(MARK + JSON.stringify(message));
  }

  #control(text) {
    const up = this.#state == 'connected';
    let message;
    try {
      message = JSON.parse(text.slice(1));
    } catch {}
    const { type, received, token, resumed, protocol, from, to } = message ?? {};
    let good = typeof type == 'string';
    if (type == 'welcome') {
      good = !up && TOKEN.test(token ?? '') && !resumed == !this.#token;
      good &&= received >= this.#acked && this.#trim(received);
      if (good) {
        this.#token = token;
        this.#up(protocol ?? '');
      }
    } else if (type == 'ack') good = up && this.#trim(received);
    else if (type == 'ping') this.#post({ type: 'pong' });
    else if (type == 'gap') {
      good = up && from == this.#received + 1 && Number.isInteger(to) && to >= from;
      if (good) {
        this.#received = to;
        if (this.#options.strict) this.#abort(1000, ABNORMAL);
        else this.dispatchEvent(Object.assign(new Event('gap'), { from, to }));
      }
    }
    if (!good) this.#abort(BROKEN, 1002);
  }

  #watch(delay) {
    if (!delay) return;
    const due = Date.now() + delay;
    this.#heard = false;
    this.#later(() => {
      const { heartbeat, maxMissed } = this.#options;
      if (this.#heard) this.#missed = 0;
      // So late that the machine slept or the tab was frozen: the answer may be waiting behind this very timer.
      else if (Date.now() - due > heartbeat / 2 && this.#missed <= maxMissed) return this.#probe();
      else if (++this.#missed > maxMissed) return this.#drop();
      else this.#post({ type: 'ping' });
      this.#watch(heartbeat);
    }, delay);
  }

  #probe() {
    const { heartbeat, maxMissed } = this.#options;
    this.#missed = maxMissed + 1;
    this.#post({ type: 'ping' });
    this.#watch(Math.min(heartbeat, PROBE_MS));
  }

  // The network is back, or the user is: find out at once.
  #wake() {
    const { heartbeat, maxMissed } = this.#options;
    if (this.#state == 'connected') this.#plain || !heartbeat || this.#missed > maxMissed || this.#probe();
    // A handshake that began on a network that is gone may hang; a fresh one is let be.
    else if (!this.#leg || Date.now() - this.#began > WAKE_MS) {
      const leg = this.#leg;
      this.#tries = 0;
      this.#connect();
      leg?.close(ABANDONED);
    }
  }

  // The page goes for good. Without a Close its session would haunt the room for the grace.
  #leave() {
    this.#readyState = CLOSING;
    this.#closing = [1000, '', true];
    this.#life.abort();
    clearTimeout(this.#timer);
    this.#leg?.close(1000);
  }

  #abort(wire, code) {
    this.#leg?.close(wire);
    this.#end(code);
  }

  // A machine that is starved is as silent as a server that is no Tideover, so once proves nothing.
  #drop(foreign = this.#tries) {
    const leg = this.#leg;
    leg.close(ABANDONED);
    this.#lost(ABNORMAL, '', false, true, foreign);
  }

  #lost(code, reason, wasClean, gaveUp, foreign = this.#leg.protocol != V1) {
    const { initialDelay, maxDelay, maxRetries, onSessionLost, plain, strict } = this.#options;
    const up = this.#state == 'connected';
    // By whom, if nobody else has the token? By a handshake of our own that was given up, and came late.
    const superseded = code == SUPERSEDED && !this.#plain;
    const dropped = code == ABNORMAL || code == RESTART || superseded;
    const gone = code == SESSION_GONE;
    const full = code == OVER_LIMIT;
    const end = [code, reason, wasClean];
    const why = gone && this.#why;
    if (code == RESTART || superseded) this.#why = end;
    this.#leg = undefined;
    clearTimeout(this.#timer);
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    // A proxy that still knows says how far it got, so that only what it never accepted counts as pending.
    if (gone) this.#trim(+/^received=(\d+)$/.exec(reason)?.[1]);
    if (this.#closing) {
      const [asked, , last] = this.#closing;
      if (dropped && up && this.#token && !last) {
        // The last words may have been under way: one more try to take them along, and to end the session.
        this.#closing[2] = true;
        this.#connect();
        return this.#become('away');
      }
      if (!this.#since || gone) return this.#end(ABNORMAL);
      // RFC 6455 7.1.5: 1005 is how a Close without code reads.
      if (code == 1000 && asked === undefined) code = 1005;
      return this.#end(code, reason, wasClean);
    }
    // An application that has closed with 4409 or 1012 has no session to go back to: then it was the application.
    if (gone || full ? onSessionLost != 'continue' || why?.[0] == SUPERSEDED : !dropped && !(this.#plain && code == 1001)) {
      return this.#end(...(why || end));
    }
    const brief = up && Date.now() - this.#since < initialDelay;
    // A leg that ends on the very message it resumes with, as one that is no UTF-8, must not come back for ever.
    if (up && !full && !superseded && (!brief || this.#plain || this.#received != this.#mark)) this.#tries = 0;
    this.#mark = this.#received;
    if (gone) {
      if (this.#token) this.#tries = 0;
      this.#token = '';
    }
    if (!this.#token && foreign && !plain && (this.#plain = !this.#plain)) this.#connect();
    else if (!this.#token && strict && !gaveUp) return this.#end(...end);
    else if (this.#tries >= maxRetries) return this.#end(ABNORMAL);
    else {
      // The first retry is at once, unless many clients were sent away together or it would be a tight loop.
      const spread = code == RESTART || superseded || full || brief;
      const n = this.#tries++;
      const most = n || spread ? Math.min(maxDelay, initialDelay * 2 ** (n - 1)) : 0;
      this.#later(() => this.#connect(), Math.random() * most);
    }
    // Last, as listeners may call close().
    if (this.#since) this.#become('away');
    if (gone) this.dispatchEvent(new Event('sessionlost'));
  }

  #end(code, reason = '', wasClean = false) {
    if (this.#readyState == CLOSED) return;
    this.#leg = undefined;
    this.#life.abort();
    clearTimeout(this.#timer);
    clearTimeout(this.#ackTimer);
    this.#readyState = CLOSED;
    this.#become('closed');
    if (!wasClean) this.dispatchEvent(new Event('error'));
    this.dispatchEvent(new CloseEvent('close', { code, reason, wasClean }));
  }

  static {
    const define = Object.defineProperty;
    // Web IDL: attributes, operations and constants are enumerable, constants fixed.
    for (const name of Object.getOwnPropertyNames(this.prototype)) {
      if (name != 'constructor') define(this.prototype, name, { enumerable: true });
    }
    Object.entries({ CONNECTING, OPEN, CLOSING, CLOSED }).forEach(([name, value]) => {
      for (const target of [this, this.prototype]) define(target, name, { value, enumerable: true });
    });
    for (const type of ['open', 'message', 'error', 'close', 'statechange', 'pending', 'gap', 'sessionlost']) {
      define(this.prototype, `on${type}`, {
        enumerable: true,
        configurable: true,
        get() {
          return this.#handlers[type]?.handler ?? null;
        },
        // HTML 8.1.8.1: a handler keeps its place among the listeners until it is null, and only functions are called.
        set(handler) {
          const known = this.#handlers[type];
          if (Object(handler) !== handler) {
            this.removeEventListener(type, known);
            delete this.#handlers[type];
          } else if (known) known.handler = handler;
          else {
            const listener = { handler, handleEvent: (event) => listener.handler.call?.(this, event) };
            this.addEventListener(type, (this.#handlers[type] = listener));
          }
        },
      });
    }
  }
}

export { TideoverSocket, TideoverSocket as default };
