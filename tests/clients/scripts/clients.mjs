// openai-node (two major versions) and the AI SDK, unmodified. Prints one JSON object.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const from = createRequire(`${process.env.NODE_PROJECT}/`);
const load = (name) => import(from.resolve(name));
const installed = (name) => from(`./node_modules/${name}/package.json`).version;
const baseURL = process.env.OPENAI_BASE_URL;
const apiKey = process.env.OPENAI_API_KEY;
const draw = { model: "gpt-image-1", prompt: "a red fox", size: "64x64", steps: 2, seed: 42 };

function size(bytes) {
  const view = Buffer.from(bytes);
  if (view.subarray(1, 4).toString() !== "PNG") throw new Error("no PNG");
  return [view.readUInt32BE(16), view.readUInt32BE(20)];
}

const decoded = (text) => size(Buffer.from(text, "base64"));

async function outcome(run) {
  try {
    return await run();
  } catch (error) {
    const { status, code, param, statusCode } = error;
    return { raised: error.constructor.name, status: status ?? statusCode, code, param, text: String(error).slice(0, 500) };
  }
}

async function openaiCases(name) {
  const { default: OpenAI, toFile } = await load(name);
  const client = new OpenAI({ baseURL, apiKey, timeout: 60_000 });
  const picture = async (file = "fox.png") =>
    toFile(await readFile(process.env.PICTURE), file, { type: "image/png" });
  return {
    version: installed(name),
    b64: await outcome(async () => decoded((await client.images.generate(draw)).data[0].b64_json)),
    url: await outcome(async () => {
      const { data } = await client.images.generate({ ...draw, response_format: "url" });
      const answer = await fetch(data[0].url);
      return { size: size(await answer.arrayBuffer()), type: answer.headers.get("content-type") };
    }),
    two: await outcome(async () => (await client.images.generate({ ...draw, n: 2 })).data.map((d) => d.seed)),
    edit: await outcome(async () => {
      const { data } = await client.images.edit({ ...draw, image: await picture() });
      return data.map((d) => decoded(d.b64_json));
    }),
    edit_two: await outcome(async () => {
      const image = [await picture(), await picture("second.png")];
      const mask = await toFile(await readFile(process.env.MASK), "mask.png", { type: "image/png" });
      const { data } = await client.images.edit({ ...draw, image, mask });
      return data.map((d) => decoded(d.b64_json));
    }),
    stream: await outcome(async () => {
      const events = await client.images.generate({ ...draw, steps: 12, cache: "bypass", stream: true, partial_images: 2 });
      const types = [];
      for await (const event of events) types.push(event.type);
      return types;
    }),
    models: await outcome(async () => (await client.models.list()).data.map((m) => m.id)),
    bad_model: await outcome(() => client.images.generate({ ...draw, model: "invalid-model" })),
    bad_key: await outcome(() => new OpenAI({ baseURL, apiKey: "wrong" }).images.generate(draw)),
  };
}

async function aiCases() {
  const { generateImage, experimental_generateImage } = await load("ai");
  const generate = generateImage ?? experimental_generateImage;
  const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
  const farm = createOpenAICompatible({ name: "renderfarm", baseURL, apiKey });
  const model = farm.imageModel("gpt-image-1");
  const many = { model, prompt: "a red fox", size: "64x64", providerOptions: { renderfarm: { steps: 1 } } };
  return {
    version: installed("ai"),
    provider: installed("@ai-sdk/openai-compatible"),
    one: await outcome(async () => size((await generate(many)).image.uint8Array)),
    twelve: await outcome(async () => (await generate({ ...many, n: 12 })).images.length),
    bad_model: await outcome(() => generate({ ...many, model: farm.imageModel("invalid-model") })),
  };
}

console.log(
  JSON.stringify({
    node: process.version,
    openai: await openaiCases("openai"),
    openai_6: await openaiCases("openai-6"),
    ai: await aiCases(),
  }),
);
