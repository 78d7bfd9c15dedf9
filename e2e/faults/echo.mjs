// An echo backend on npm's ws, which checks what RFC 6455 asks of a server.
import {WebSocketServer} from '../node_modules/ws/wrapper.mjs';

const server = new WebSocketServer({port: 0, host: '127.0.0.1', clientTracking: false}, () => {
  process.stdout.write('127.0.0.1:' + server.address().port + '\n');
});
server.on('connection', (socket) => {
  socket.on('error', () => {}); // a client's violation; ws closes with its code
  socket.on('message', (data, binary) => socket.send(data, {binary}));
});
process.stdin.on('end', () => process.exit(0)).resume();
