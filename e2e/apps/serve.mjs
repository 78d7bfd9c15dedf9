// What the servers of this folder share: files for their pages, and the tests' commands.
import {createSocket} from 'node:dgram';
import {readFileSync} from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import {createInterface} from 'node:readline';

const emit = (event) => process.stdout.write(JSON.stringify(event) + '\n');

// site serves files: {'/app.js': ['text/javascript', TEXT or file URL]}
export const site = (files) =>
  http.createServer(({url}, response) => {
    const file = files[url];
    if (!file) return response.writeHead(404).end();
    response.writeHead(200, {'Content-Type': file[0]}).end(file[1] instanceof URL ? readFileSync(file[1]) : file[1]);
  });

export const here = (path) => new URL(path, import.meta.url);

const listens = (server) => new Promise((resolve) => server.once('listening', () => resolve(true)).once('error', () => resolve(false)));

// freePort finds a port as proxytest.FreeAddr does: below those that systems give out, and marked by a bound UDP socket.
export const freePort = async () => {
  for (let tries = 0; tries < 1000; tries++) {
    const port = 10000 + Math.floor(Math.random() * 22768);
    const mark = createSocket('udp4').unref();
    mark.bind(port, '127.0.0.1');
    if (!(await listens(mark))) continue;
    const server = net.createServer().listen(port, '127.0.0.1');
    if (await listens(server)) {
      server.close();
      return port;
    }
    mark.close();
  }
  throw new Error('no free port');
};

// answer says that the server at a port is ready, and then answers {"cmd":"step","n":N} and {"cmd":"check","n":N}, the
// latter with what is wrong after N steps, '' if nothing is. ended is called when standard input ends.
export const answer = (port, {step = () => {}, check}, ended = () => {}) => {
  emit({ev: 'ready', addr: '127.0.0.1:' + port});
  createInterface({input: process.stdin})
    .on('line', async (line) => {
      const {cmd, n} = JSON.parse(line);
      emit({ev: 'value', data: JSON.stringify((await (cmd === 'step' ? step : check)(n)) ?? '')});
    })
    .on('close', () => {
      ended();
      process.exit(0);
    });
};

// different tells how a list differs from the numbers 1 … n, '' if it doesn't.
export const different = (what, list, n) =>
  list.length === n && list.every((item, i) => item === i + 1) ? '' : `${what}: ${list}, want 1 to ${n}; `;
export const not = (what, got, want) => (got === want ? '' : `${what}: ${got}, want ${want}; `);
