// A browser, driven by the Rust tests line by line (`lines.mjs`). Chromium is the system's; it is asked for nothing but
// what the tests open.
//
// node browser.mjs
import { chromium } from 'playwright-core';
import { serve } from './lines.mjs';

const PATIENCE = 60000;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});

let page;
// Whatever a console would show in red, violations of the policy among them, and dialogs that hostile text might open.
const complaints = [];

const operations = {
  open: async ({ url, width = 1280, height = 900, dark = false, still = true }) => {
    await page?.context().close();
    const context = await browser.newContext({
      viewport: { width, height }, colorScheme: dark ? 'dark' : 'light', reducedMotion: still ? 'reduce' : 'no-preference',
      locale: 'en-GB', timezoneId: 'UTC',
    });
    page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) complaints.push(`${message.type()}: ${message.text()}`);
    });
    page.on('pageerror', (error) => complaints.push(`exception: ${error.message}`));
    page.on('dialog', (dialog) => { complaints.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
    await page.goto(url);
  },
  size: ({ width, height }) => page.setViewportSize({ width, height }),
  scheme: ({ dark }) => page.emulateMedia({ colorScheme: dark ? 'dark' : 'light' }),
  go: ({ hash }) => page.goto(new URL(hash, page.url()).href),
  reload: async () => { await page.reload(); },
  url: () => page.url(),
  // Waits until an element like this is there, or gone.
  see: ({ selector, text }) => page.locator(selector, text ? { hasText: text } : {}).first().waitFor({ state: 'visible' }),
  gone: ({ selector, text }) => page.locator(selector, text ? { hasText: text } : {}).first().waitFor({ state: 'hidden' }),
  text: ({ selector }) => page.locator(selector).first().innerText(),
  count: ({ selector }) => page.locator(selector).count(),
  fill: ({ selector, text }) => page.locator(selector).fill(text),
  click: ({ selector, text }) => page.locator(selector, text ? { hasText: text } : {}).first().click(),
  press: ({ key }) => page.keyboard.press(key),
  // What has the focus, by its text or its id.
  focused: async () => {
    const focus = page.locator(':focus');
    if (!(await focus.count())) return null;
    return { id: await focus.getAttribute('id'), text: (await focus.innerText()).trim(), outline: await focus.evaluate((node) => getComputedStyle(node).outlineStyle) };
  },
  // By how many pixels the page is wider than its window.
  overflow: () => page.locator('html').evaluate((html) => html.scrollWidth - html.clientWidth),
  // The elements that stick out of it.
  wide: () => page.locator('body *').evaluateAll((nodes) => nodes
    .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth)
    .map((node) => `${node.tagName.toLowerCase()}#${node.id}.${node.getAttribute('class') ?? ''} ${node.textContent.slice(0, 60)}`)),
  shot: async ({ path, full = true }) => {
    await page.locator('html').evaluate((html) => html.scrollTo(0, 0));
    await page.screenshot({ path, fullPage: full });
  },
  complaints: () => complaints.splice(0),
};

await serve(operations);
await browser.close();
process.exit(0);
