// The backend of page.html, on npm's ws: serves the page and talks with it. It knows of no proxy.
// Standard input: {"cmd":"goal","to":N} and {"cmd":"report"}; each is answered with the report.
import {readFileSync} from 'node:fs';
import http from 'node:http';
import {createInterface} from 'node:readline';
import {WebSocketServer} from 'ws';
import './conversation.js';

const emit = (event) => process.stdout.write(JSON.stringify(event) + '\n');
const types = {'/page.html': 'text/html', '/conversation.js': 'text/javascript'};
const server = http.createServer(({url}, response) => {
  if (!types[url]) return response.writeHead(404).end();
  response.writeHead(200, {'Content-Type': types[url]}).end(readFileSync(new URL('.' + url, import.meta.url)));
});

const talker = party('backend', 'page');
let latest;
new WebSocketServer({server}).on('connection', (socket) => {
  latest = socket;
  talker.report.opens++;
  socket.on('error', () => {});
  socket.on('close', () => talker.report.closes++);
  socket.on('message', (data, binary) => talker.take(binary ? data : String(data)));
});
setInterval(() => talker.speak(latest), 4);

createInterface({input: process.stdin}).on('line', (line) => {
  const {cmd, to} = JSON.parse(line);
  if (cmd === 'goal') talker.goal = to;
  emit({ev: 'value', data: JSON.stringify(talker.report)});
}).on('close', () => process.exit(0));

server.listen(0, '127.0.0.1', () => emit({ev: 'ready', addr: '127.0.0.1:' + server.address().port}));
