// What the package promises about itself.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { transformSync } from 'esbuild';

const root = new URL('..', import.meta.url);
const read = (name) => readFileSync(new URL(name, root), 'utf8');

test('the client is at most 4 kB, minified and gzipped', (t) => {
  const { code } = transformSync(read('tideover.js'), { minify: true, format: 'esm' });
  const bytes = gzipSync(code, { level: 9 }).length;
  t.diagnostic(`${bytes} bytes`);
  assert.ok(bytes <= 4000, `${bytes} bytes`);
});

test('it depends on nothing, and is one file', () => {
  const { dependencies, peerDependencies, devDependencies } = JSON.parse(read('package.json'));
  assert.equal(dependencies, undefined);
  assert.equal(peerDependencies, undefined);
  for (const [name, version] of Object.entries(devDependencies)) assert.match(version, /^\d+\.\d+\.\d+$/, `${name} is not pinned`);
  const { code } = transformSync(read('tideover.js'), { minifyWhitespace: true, format: 'esm' });
  assert.ok(!/\bimport\b/.test(code), 'tideover.js imports something');
});

test('the lockfile names no registry', () => {
  for (const [path, entry] of Object.entries(JSON.parse(read('package-lock.json')).packages)) {
    assert.equal(entry.resolved, undefined, path);
  }
});

test('the types compile, and refuse what they should', () => {
  const tsc = fileURLToPath(new URL('node_modules/typescript/bin/tsc', root));
  try {
    execFileSync(process.execPath, [tsc, '-p', fileURLToPath(root)], { encoding: 'utf8' });
  } catch (failed) {
    assert.fail(failed.stdout);
  }
});

test('the types and the class have the same members', async () => {
  const { TideoverSocket } = await import('../tideover.js');
  const declared = read('tideover.d.ts').split('export class TideoverSocket')[1];
  for (const name of Object.getOwnPropertyNames(TideoverSocket.prototype)) {
    assert.match(declared, new RegExp(`\\b${name}\\b`), `${name} is not declared`);
  }
});

test('the frames in PROTOCOL.md are what their text says', () => {
  const frames = read('PROTOCOL.md').match(/^ {4}[0-9a-f]{2}( [0-9a-f]{2}){3,}$/gm);
  const payloads = frames.map((line) => {
    const bytes = Buffer.from(line.replaceAll(' ', ''), 'hex');
    const masked = bytes[1] & 0x80;
    const start = masked ? 6 : 2;
    assert.equal(bytes.length, start + (bytes[1] & 0x7f), line);
    const payload = bytes.subarray(start).map((byte, i) => (masked ? byte ^ bytes[2 + (i & 3)] : byte));
    return bytes[0] === 0x88 ? [payload.readUInt16BE(0), payload.subarray(2).toString()] : payload.toString();
  });
  const ack = '\x1e{"type":"ack","received":1}';
  assert.deepEqual(payloads, ['hi', ack, 'ok', ack, '\x1e\x1eA', [4404, 'no such session'], [4408, '']]);
});
