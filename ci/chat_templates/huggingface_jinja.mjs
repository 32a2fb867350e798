// Renders chat templates with @huggingface/jinja, the engine of transformers.js. It runs on its own.
//
// `node huggingface_jinja.mjs PACKAGE REQUEST_FD ANSWER_FD`, with the package's directory: reads a request, one JSON
// object, and writes one line of JSON for each rendering as soon as it has it. See jinja2_program.py.
import { readFileSync, writeSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const MAX_CHARACTERS = 200_000;
const MOMENT = new Date(2026, 1, 3, 4, 5, 6).getTime();
const RealDate = Date;
globalThis.Date = class extends RealDate {
  constructor(...given) {
    super(...(given.length ? given : [MOMENT]));
  }
  static now() {
    return MOMENT;
  }
};

const [directory, request, answers] = process.argv.slice(2);
const { version, module } = JSON.parse(readFileSync(join(directory, "package.json"), "utf-8"));
const { Template } = await import(pathToFileURL(join(directory, module)));
const asked = JSON.parse(readFileSync(Number(request), "utf-8"));

function write(line) {
  const bytes = Buffer.from(JSON.stringify(line) + "\n", "utf-8");
  for (let start = 0; start < bytes.length; ) start += writeSync(Number(answers), bytes, start);
}

function compile({ template }) {
  try {
    return { compiled: new Template(template) };
  } catch (error) {
    return { refusal: `does not compile: ${error.message}`.slice(0, 300) };
  }
}

function render({ compiled, refusal, tokens }, { messages, tools, add_generation_prompt, switches }) {
  if (!compiled) return { refusal };
  const given = structuredClone({ ...tokens, ...switches, messages, tools, add_generation_prompt });
  try {
    const text = compiled.render(given);
    return text.length > MAX_CHARACTERS ? { refusal: `more than ${MAX_CHARACTERS} characters` } : { text };
  } catch (error) {
    return { refusal: `${error.name}: ${error.message}`.slice(0, 300) };
  }
}

write({ engine: `@huggingface/jinja ${version} on node ${process.versions.node}` });
const sides = asked.templates.map((side) => ({ ...side, ...compile(side) }));
asked.conversations.forEach((conversation, index) => {
  for (const side of sides) write({ index, side: side.side, ...render(side, conversation) });
});
