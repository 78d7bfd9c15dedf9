// MQTT over WebSocket: npm's mqtt and the broker mosquitto. Debian builds mosquitto without WebSockets, so that a
// bridge turns them into its TCP connections, byte by byte. A second CONNECT is an error to the broker.
import {spawn} from 'node:child_process';
import {writeFileSync} from 'node:fs';
import net from 'node:net';
import {createInterface} from 'node:readline';
import {WebSocketServer} from 'ws';
import {answer, freePort, here, not, site} from './serve.mjs';

const [program, config] = process.argv.slice(2);
const port = await freePort();
writeFileSync(config, `listener ${port} 127.0.0.1\nallow_anonymous true\n`);
const broker = spawn(program, ['-c', config, '-v'], {stdio: ['ignore', 'pipe', 'pipe']});
const log = [];
await new Promise((running) => {
  for (const output of [broker.stdout, broker.stderr]) {
    createInterface({input: output}).on('line', (line) => {
      log.push(line);
      if (line.endsWith(' running')) running();
    });
  }
});

const server = site({
  '/page.html': ['text/html; charset=utf-8', here('./mqtt.html')],
  '/mqtt.js': ['text/javascript', here('./node_modules/mqtt/dist/mqtt.min.js')],
});
new WebSocketServer({server, path: '/mqtt'}).on('connection', (socket) => {
  const tcp = net.connect(port, '127.0.0.1');
  socket.on('message', (data) => tcp.write(data));
  socket.on('close', () => tcp.end());
  socket.on('error', () => tcp.destroy());
  tcp.on('data', (data) => socket.send(data));
  tcp.on('close', () => socket.close());
  tcp.on('error', () => socket.close());
});
const count = (part) => log.filter((line) => line.includes(part)).length;
server.listen(0, '127.0.0.1', () =>
  answer(server.address().port, {
    check: (n) =>
      not('clients', count('New client connected from'), 1) + not('PUBLISH received', count('Received PUBLISH from'), n) +
      not('duplicates', count('Received PUBLISH from page (d1'), 0) + not('ends', count('Client page'), 0),
  }, () => broker.kill()),
);
