// Compiled, never run: what users of the types may write, and what they may not.
import Default, { TideoverSocket, type TideoverOptions } from '../tideover.js';

const options: TideoverOptions = { maxRetries: Infinity, onSessionLost: 'continue' };
const socket = new TideoverSocket('/chat', ['a', 'b'], options);
new Default(new URL('wss://example.org'), 'a');

const native: WebSocket = socket; // whatever takes a WebSocket takes this one
const construct: new (url: string | URL, protocols?: string | string[]) => WebSocket = TideoverSocket;
const open: 1 = TideoverSocket.OPEN;

socket.addEventListener('gap', (event) => event.to - event.from);
socket.addEventListener('message', (event) => event.data);
socket.onclose = (event) => event.code;
socket.onpending = () => `${socket.pending} messages pending`;
socket.send(new Uint8Array(1));
socket.binaryType = 'arraybuffer';
if (socket.state === 'away') socket.close(1000, 'bye');

// @ts-expect-error: a misspelt option
new TideoverSocket('/', [], { maxRetry: 1 });
// @ts-expect-error: no such state
socket.state === 'open';
// @ts-expect-error: read only
socket.pending = 0;
// @ts-expect-error: not a message
socket.send(1);

export { native, construct, open };
