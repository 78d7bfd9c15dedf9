// socket.io over its WebSocket transport: its own server, its own client.
import {Server} from 'socket.io';
import {answer, different, here, not, site} from './serve.mjs';

const server = site({'/page.html': ['text/html; charset=utf-8', here('./socketio.html')]});
let connections = 0;
const heard = [];
const trouble = [];
new Server(server).on('connection', (socket) => {
  connections++;
  socket.on('step', (n, data, acknowledge) => {
    heard.push(n);
    acknowledge(n);
    socket.emit('stepped', n, data);
  });
  socket.on('disconnect', (reason) => trouble.push(reason));
});
server.listen(0, '127.0.0.1', () =>
  answer(server.address().port, {
    check: (n) => different('steps', heard, n) + not('connections', connections, 1) + not('disconnects', trouble.join(), ''),
  }),
);
