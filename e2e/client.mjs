// Runs a client for the tests: node client.mjs KIND URL [PAGE BROWSER [COOKIE]]
//   ws        the chat application on npm's ws
//   rws       the same on npm's reconnecting-websocket
//   chromium  the same put into the page at PAGE, in a tab of the browser that browser.mjs runs at BROWSER
//   page      the page at PAGE as it is, driven by {"cmd":"eval","text":SCRIPT} and {"cmd":"reload"};
//             COOKIE (name=value) is set before
// Standard output says what happens as JSON lines; standard input takes commands, see app.mjs.
import {readFileSync} from 'node:fs';
import {createInterface} from 'node:readline';

const [kind, url, page, browser, cookie] = process.argv.slice(2);
const emit = (event) => process.stdout.write(JSON.stringify(event) + '\n');
const start = {
  async ws() {
    const {default: WebSocket} = await import('ws');
    const {chat} = await import('./app.mjs');
    return chat({open: () => new WebSocket(url), retry: 100, emit});
  },
  async rws() {
    const {default: WebSocket} = await import('ws');
    const {default: Reconnecting} = await import('reconnecting-websocket');
    const {chat} = await import('./app.mjs');
    const options = {WebSocket, minReconnectionDelay: 50, maxReconnectionDelay: 300};
    return chat({open: () => new (Reconnecting.default ?? Reconnecting)(url, [], options), retry: 0, emit});
  },
  async chromium() {
    const tab = await open();
    await tab.exposeBinding('emit', (_, event) => emit(event));
    await tab.goto(page);
    const app = readFileSync(new URL('./app.mjs', import.meta.url), 'utf8');
    const begin = `window.handle = chat({open: () => new WebSocket(${JSON.stringify(url)}), retry: 100, emit});`;
    await tab.addScriptTag({type: 'module', content: app + begin});
    return (command) => tab.evaluate((command) => window.handle(command), command);
  },
  async page() {
    const tab = await open();
    await tab.goto(page);
    return async ({cmd, text}) => {
      const value = cmd === 'reload' ? (await tab.reload()).status() : await tab.evaluate(text);
      emit({ev: 'value', data: JSON.stringify(value)});
    };
  },
};

async function open() {
  const {chromium} = await import('playwright-core');
  const context = await (await chromium.connect(browser)).newContext();
  context.setDefaultTimeout(0); // how long to wait is the test's to say
  if (cookie) {
    const [name, value] = cookie.split('=');
    await context.addCookies([{name, value, url: page}]);
  }
  const tab = await context.newPage();
  tab.on('pageerror', (error) => emit({ev: 'error', data: String(error)}));
  return tab;
}

const handle = await start[kind]();
emit({ev: 'ready'});
createInterface({input: process.stdin})
  .on('line', async (line) => handle(JSON.parse(line)))
  .on('close', () => process.exit(0));
