// Yjs: y-websocket's own server and provider. A lost update would leave the documents different.
import {createRequire} from 'node:module';
import {build} from 'esbuild';
import {WebSocketServer} from 'ws';
import {answer, here, not, site} from './serve.mjs';

const {setupWSConnection} = createRequire(import.meta.url)('y-websocket/bin/utils');
const bundle = await build({
  stdin: {contents: `export * as Y from 'yjs'; export {WebsocketProvider} from 'y-websocket'`, resolveDir: here('.').pathname},
  bundle: true, write: false, format: 'iife', globalName: 'yjs', minify: true,
});
const server = site({
  '/page.html': ['text/html; charset=utf-8', here('./yjs.html')],
  '/yjs.js': ['text/javascript', bundle.outputFiles[0].text],
});
const counts = {connections: 0, closes: 0};
new WebSocketServer({server}).on('connection', (socket, request) => {
  counts.connections++;
  socket.on('close', () => counts.closes++);
  setupWSConnection(socket, request);
});
server.listen(0, '127.0.0.1', () =>
  answer(server.address().port, {check: () => not('connections', counts.connections, 2) + not('closes', counts.closes, 0)}),
);
