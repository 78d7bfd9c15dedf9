// A TCP relay that cuts its connections after a random number of bytes, in the middle of whatever goes by.

import { connect, createServer } from 'node:net';

/**
 * @param {number} port where to relay to
 * @param {() => number} random
 * @param {number} most bytes in one direction before a cut
 */
export async function startCutter(port, random, most) {
  const cutter = { cuts: { fin: 0, reset: 0, silent: 0 }, cutting: true };
  const open = new Set();
  const relay = createServer((client) => {
    const server = connect(port, '127.0.0.1');
    const both = [client, server];
    let dead = false;
    for (const socket of both) {
      open.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        open.delete(socket);
        for (const other of both) other.destroy();
      });
    }
    const cut = () => {
      dead = true;
      const kind = ['fin', 'reset', 'silent'][Math.floor(random() * 3)];
      cutter.cuts[kind]++;
      // Silent: neither end learns of it. The client has to notice; the server is told much later.
      for (const socket of both) {
        if (kind === 'fin') socket.end();
        else if (kind === 'reset') socket.resetAndDestroy();
        else setTimeout(() => socket.destroy(), 2000).unref();
      }
    };
    for (const [from, to] of [both, [server, client]]) {
      let left = Math.floor(random() * most * (random() < 0.1 ? 10 : 1)); // sometimes room for a large message
      from.on('data', (chunk) => {
        if (dead) return;
        if (!cutter.cutting || chunk.length < left) {
          left -= chunk.length;
          to.write(chunk);
          return;
        }
        to.write(chunk.subarray(0, left));
        cut();
      });
    }
  });
  await new Promise((resolve) => relay.listen(0, '127.0.0.1', resolve));
  cutter.port = relay.address().port;
  cutter.close = () =>
    new Promise((resolve) => {
      for (const socket of open) socket.destroy();
      relay.close(resolve);
    });
  return cutter;
}
