// noVNC as Debian packages it, websockify and an X server: one lost or doubled byte derails the stream for good.
import {execFile, spawn} from 'node:child_process';
import net from 'node:net';
import {setTimeout as sleep} from 'node:timers/promises';
import {promisify} from 'node:util';
import {answer, freePort, not} from './serve.mjs';

const display = `:${100 + (process.pid % 30000)}`;
const [vnc, web] = [await freePort(), await freePort()];
const log = [];
const run = (name, ...args) => {
  const child = spawn(name, args, {stdio: ['ignore', 'pipe', 'pipe']});
  for (const output of [child.stdout, child.stderr]) output.on('data', (data) => log.push(String(data)));
  return child;
};
const listening = async (port) => {
  for (;;) {
    const up = await new Promise((resolve) => {
      const socket = net.connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
      socket.on('connect', () => socket.destroy());
    });
    if (up) return;
    await sleep(50);
  }
};
const x = run('Xtigervnc', display, '-rfbport', vnc, '-localhost', '-SecurityTypes', 'None', '-geometry', '320x240', '-depth', '24');
const ws = run('websockify', '--web', '/usr/share/novnc', `127.0.0.1:${web}`, `127.0.0.1:${vnc}`);
await listening(vnc);
await listening(web);
log.length = 0;

const paint = (...args) => promisify(execFile)('xsetroot', ['-display', display, ...args]);
answer(web, {
  // Step n: patterns that take some bytes, then one colour that tells n.
  async step(n) {
    await paint('-mod', String(3 + n), '5', '-fg', 'red', '-bg', 'blue');
    await sleep(60);
    await paint('-solid', '#' + (n * 10).toString(16).padStart(2, '0') + '8040');
  },
  check: () => not('connections', (log.join('').match(/Plain non-SSL|SSL\/TLS|connecting to: /g) ?? []).filter((s) => s.startsWith('connecting')).length, 1),
}, () => {
  ws.kill();
  x.kill();
});
