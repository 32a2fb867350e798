// GitHub's own language service over workflow and action files: prints [{file, line, message}] for whatever it finds.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { validate } from "@actions/languageservice";
import { TextDocument } from "vscode-languageserver-textdocument";

const [root, ...files] = process.argv.slice(2);
const fileProvider = {
  getFileContent: async (reference) => {
    const path = reference.path.replace(/^\.\//, "");
    return { name: path, content: readFileSync(join(root, path), "utf-8") };
  },
};

async function main() {
  const found = [];
  for (const file of files) {
    const document = TextDocument.create(`file:///${file}`, "yaml", 1, readFileSync(join(root, file), "utf-8"));
    for (const { range, message } of await validate(document, { fileProvider })) {
      found.push({ file, line: range.start.line + 1, message });
    }
  }
  console.log(JSON.stringify(found));
}

main();
