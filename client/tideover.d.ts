// SPDX-License-Identifier: Apache-2.0

/** What can be set; each has a default. */
export interface TideoverOptions {
  /** The WebSocket to build on, for example that of npm `ws`. Default: the global one. */
  WebSocket?: any;
  /** The longest wait before the second retry, in ms; doubled with each one. The first retry is at once. Default 1000. */
  initialDelay?: number;
  /** The longest wait before any retry, in ms. The wait is drawn between 0 and the longest. Default 60000. */
  maxDelay?: number;
  /**
   * How many retries in a row may fail before the socket gives up; Infinity is allowed. Default 10. A connection fails
   * too if it breaks within `initialDelay` of its welcome and has brought no message.
   */
  maxRetries?: number;
  /**
   * How many bytes may wait while the connection is away, in messages that are not acknowledged. `send` throws a
   * QuotaExceededError beyond that, and the message is not taken. Default 16 MiB.
   */
  maxBuffered?: number;
  /** How long a handshake may take, in ms. Default 15000. */
  connectTimeout?: number;
  /** After this much silence, in ms, a ping is sent; 0 for never. Default 30000. */
  heartbeat?: number;
  /** How many pings in a row may go unanswered, each for `heartbeat`. Default 2. */
  maxMissed?: number;
  /**
   * What to do when the proxy no longer has the session (4404), or is over a limit (1013).
   * `close` (default): the socket closes, with the proxy's code.
   * `continue`: a `sessionlost` event, then a new session, to which everything not acknowledged is sent. Over a
   * limit the old session is asked for first, after a wait.
   */
  onSessionLost?: 'close' | 'continue';
  /**
   * Retry only what can be resumed without loss, and be a plain WebSocket in all else: a first connection that fails,
   * a server that is not Tideover, a gap and a full buffer then close the socket. Default false.
   */
  strict?: boolean;
  /** The server is known not to be Tideover: reconnect and buffer, but do not offer its protocol. Default false. */
  plain?: boolean;
}

/** Messages of the server that are lost, because its window could not hold them. */
export interface GapEvent extends Event {
  /** Number of the first lost message, counted from 1. */
  readonly from: number;
  /** Number of the last one. */
  readonly to: number;
}

export interface TideoverEventMap extends WebSocketEventMap {
  /** `state` changed. */
  statechange: Event;
  /** `pending` changed. */
  pending: Event;
  gap: GapEvent;
  /** With `onSessionLost: 'continue'`: to the server this is a new client from here on. */
  sessionlost: Event;
}

/**
 * A WebSocket that survives drops. All of WebSocket's interface means what it means there, with the whole session in
 * place of one connection: a drop closes nothing, and `readyState` stays OPEN while the connection is away.
 */
export class TideoverSocket extends EventTarget implements WebSocket {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;

  /**
   * @param url `ws:`, `wss:`, `http:` or `https:`; in a page it may be relative
   * @param protocols the application's own subprotocols
   * @throws SyntaxError (a DOMException) if the URL or a subprotocol is bad
   */
  constructor(url: string | URL, protocols?: string | string[], options?: TideoverOptions);

  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  readonly url: string;
  readonly readyState: number;
  /** Bytes given to `send` that are not on their way: all that is not acknowledged while the connection is away. */
  readonly bufferedAmount: number;
  readonly extensions: string;
  /** The application's subprotocol that the server chose, or the empty string. */
  readonly protocol: string;
  binaryType: BinaryType;

  /** `connecting` until the first connection stands, then `connected` or `away`, and `closed` at the end. */
  readonly state: 'connecting' | 'connected' | 'away' | 'closed';
  /** Messages given to `send` that the proxy has not acknowledged (a server that is no proxy: not yet handed to it). */
  readonly pending: number;

  onopen: ((this: WebSocket, event: Event) => any) | null;
  onmessage: ((this: WebSocket, event: MessageEvent) => any) | null;
  onerror: ((this: WebSocket, event: Event) => any) | null;
  onclose: ((this: WebSocket, event: CloseEvent) => any) | null;
  onstatechange: ((this: TideoverSocket, event: Event) => any) | null;
  onpending: ((this: TideoverSocket, event: Event) => any) | null;
  ongap: ((this: TideoverSocket, event: GapEvent) => any) | null;
  onsessionlost: ((this: TideoverSocket, event: Event) => any) | null;

  /**
   * Sends a message, or keeps it until the connection is back. Bytes are copied.
   * @throws InvalidStateError before the first `open`; QuotaExceededError if `maxBuffered` is reached while away
   */
  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): void;

  /**
   * Ends the session, after all that was sent before. While away, or if the connection drops meanwhile, one more try
   * to connect is made for that; if it fails, the socket closes with 1006.
   * @param code 1000 or 3000 to 4999
   * @param reason at most 123 bytes in UTF-8
   * @throws InvalidAccessError for another code; SyntaxError for a longer reason
   */
  close(code?: number, reason?: string): void;

  addEventListener<K extends keyof TideoverEventMap>(
    type: K,
    listener: (this: TideoverSocket, event: TideoverEventMap[K]) => any,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof TideoverEventMap>(
    type: K,
    listener: (this: TideoverSocket, event: TideoverEventMap[K]) => any,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

export default TideoverSocket;
