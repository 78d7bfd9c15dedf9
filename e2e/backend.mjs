// A chat backend on npm's ws: rooms, broadcast to everybody in the room, nothing else. It knows of no proxy.
// The query of the URL says who comes: /?room=R&username=U. A client on the path /echo gets its own
// messages back instead. Plain HTTP requests get an empty page.
//
// Standard output is a log of JSON lines, the tests' ground truth: what came from, and what went to, which
// connection. Standard input takes {"cmd":"say","room":R,"text":T} and {"cmd":"close","conn":N,"code":C}.
import http from 'node:http';
import {createInterface} from 'node:readline';
import {WebSocketServer} from 'ws';

const log = (event) => process.stdout.write(JSON.stringify(event) + '\n');
const rooms = new Map();
const conns = new Map();

const server = http.createServer((request, response) => {
  response.writeHead(200, {'Content-Type': 'text/html'}).end('<!DOCTYPE html><title>A backend</title>');
});

const give = (socket, text) => {
  if (socket.readyState !== socket.OPEN) return;
  log({ev: 'sent', conn: socket.number, data: text});
  socket.send(text);
};
const say = (room, text) => {
  for (const socket of rooms.get(room) ?? []) give(socket, text);
};

new WebSocketServer({server}).on('connection', (socket, request) => {
  const url = new URL(request.url, 'http://backend');
  const room = url.searchParams.get('room') ?? '';
  socket.number = conns.size + 1;
  conns.set(socket.number, socket);
  if (!rooms.has(room)) rooms.set(room, new Set());
  rooms.get(room).add(socket);
  log({ev: 'open', conn: socket.number, user: url.searchParams.get('username'), url: request.url, headers: request.headers});
  socket.on('error', (error) => log({ev: 'error', conn: socket.number, data: String(error)}));
  socket.on('close', (code, reason) => {
    rooms.get(room).delete(socket);
    log({ev: 'close', conn: socket.number, code, data: String(reason)});
  });
  socket.on('message', (data, binary) => {
    if (binary) return socket.send(data);
    log({ev: 'got', conn: socket.number, data: String(data)});
    if (url.pathname === '/echo') give(socket, String(data));
    else say(room, String(data));
  });
});

createInterface({input: process.stdin}).on('line', (line) => {
  const command = JSON.parse(line);
  if (command.cmd === 'say') say(command.room, command.text);
  else if (command.cmd === 'close') conns.get(command.conn).close(command.code, command.text);
}).on('close', () => process.exit(0));

server.listen(0, '127.0.0.1', () => log({ev: 'ready', addr: '127.0.0.1:' + server.address().port}));
