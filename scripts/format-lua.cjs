// Formats the Lua files with StyLua: `node scripts/format-lua.cjs` writes them, `--check` names those that differ.
// scripts/setup-linters.sh installs StyLua's WebAssembly build from npm: the other one fetches a binary from GitHub.
const { execFileSync } = require('node:child_process');
const { readFileSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');

const root = join(__dirname, '..');
const stylua = require(join(root, 'target/tools/stylua/node_modules/@johnnymorganz/stylua'));

// A configuration is used up by one call.
function configuration() {
  const config = stylua.Config.new();
  config.syntax = stylua.LuaVersion.Lua51;
  config.column_width = 120;
  config.indent_type = stylua.IndentType.Spaces;
  config.indent_width = 2;
  config.quote_style = stylua.QuoteStyle.AutoPreferSingle;
  config.collapse_simple_statement = stylua.CollapseSimpleStatement.Always;
  return config;
}

const isCheck = process.argv.includes('--check');
// A migration is known by its hash: one that is released is never changed.
const files = execFileSync('git', ['ls-files', '*.lua', ':!migrations'], { cwd: root, encoding: 'utf8' }).trim().split('\n');
const differing = [];
for (const file of files) {
  const path = join(root, file);
  const text = readFileSync(path, 'utf8');
  const formatted = stylua.formatCode(text, configuration(), undefined, stylua.OutputVerification.Full);
  if (formatted !== text) {
    differing.push(file);
    if (!isCheck) writeFileSync(path, formatted);
  }
}
console.log(`${files.length} Lua files: ${differing.length} ${isCheck ? 'differ from StyLua' : 'formatted'}`);
if (isCheck && differing.length > 0) {
  console.error(`${differing.join('\n')}\nRun node scripts/format-lua.cjs.`);
  process.exit(1);
}
