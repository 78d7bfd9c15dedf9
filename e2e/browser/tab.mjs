// Opens the page at PAGE in a tab of the browser that ../browser.mjs runs at BROWSER: node tab.mjs BROWSER PAGE [SCRIPT]
// SCRIPT is the file of one that runs before the page's own.
// Standard input takes commands as JSON lines, and each is answered with {"ev":"value"}:
//   {"cmd":"eval","text":SCRIPT}       runs a script in the page; data is its value as JSON
//   {"cmd":"offline","on":true}        the browser's network is gone, as its developer tools do it
//   {"cmd":"hidden","on":true}         the page is told that its tab is in the background
//   {"cmd":"frozen","on":true}         the page is frozen, as browsers do with tabs in the background
//   {"cmd":"goto","text":URL}          leaves for another page
import {createInterface} from 'node:readline';
import {chromium} from 'playwright-core';

const emit = (event) => process.stdout.write(JSON.stringify(event) + '\n');
const [browser, page, script] = process.argv.slice(2);
const context = await (await chromium.connect(browser)).newContext();
context.setDefaultTimeout(0); // how long to wait is the test's to say
const tab = await context.newPage();
tab.on('pageerror', (error) => emit({ev: 'error', data: String(error)}));
tab.on('console', (message) => emit({ev: 'console', data: message.text()}));
if (script) await tab.addInitScript({path: script});
await tab.goto(page);
const cdp = await context.newCDPSession(tab);

const commands = {
  eval: ({text}) => tab.evaluate(text),
  goto: async ({text}) => (await tab.goto(text)).status(),
  offline: ({on}) => context.setOffline(on),
  frozen: ({on}) => cdp.send('Page.setWebLifecycleState', {state: on ? 'frozen' : 'active'}),
  hidden: ({on}) => tab.evaluate((on) => {
    Object.defineProperty(document, 'hidden', {value: on, configurable: true});
    Object.defineProperty(document, 'visibilityState', {value: on ? 'hidden' : 'visible', configurable: true});
    document.dispatchEvent(new Event('visibilitychange', {bubbles: true}));
  }, on),
};
emit({ev: 'ready'});
createInterface({input: process.stdin})
  .on('line', async (line) => {
    const command = JSON.parse(line);
    try {
      emit({ev: 'value', data: JSON.stringify(await commands[command.cmd](command)) ?? 'null'});
    } catch (error) {
      emit({ev: 'value', data: JSON.stringify(`failed: ${error}`)});
    }
  })
  .on('close', () => process.exit(0));
