// Runs one headless Chromium for all tests and says where client.mjs can reach it. Ends with its standard input.
import {chromium} from 'playwright-core';

const server = await chromium.launchServer({
  executablePath: process.argv[2],
  host: '127.0.0.1',
  timeout: 0, // how long to wait is the test's to say
  chromiumSandbox: false, // tests often run as root, in a container
  args: ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
process.stdout.write(JSON.stringify({ev: 'ready', addr: server.wsEndpoint()}) + '\n');
process.stdin.resume().on('end', async () => {
  await server.close();
  process.exit(0);
});
