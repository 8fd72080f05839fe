import assert from "node:assert/strict";
import { test } from "node:test";

await import("../../.ci/search.js");

const entry = (href, title, section, text, about = "") => ({ href, title, section, text, about });
const SITE = [
  entry("neurons/neuron.html", "neurons.neuron", "", "", "Spiking neurons: leaky or not, by any surrogate gradient."),
  entry("neurons/neuron.html#lif", "neurons.neuron", "LIF", "Leaky integrate-and-fire neuron."),
  entry("neurons/neuron.html#if", "neurons.neuron", "IF", "Integrate-and-fire neuron, if the whole potential survives."),
  entry("neurons/neuron.html#the-neurons", "neurons.neuron", "The neurons", "LIF, IF and PLIF as modules."),
  entry("studies/life.html", "studies.life", "", "A life cycle: if it lifts, if it drifts."),
  entry("tutorials/parts.html#students", "Your parts", "A student of SpikingJelly", "A network of SpikingJelly or snnTorch."),
  entry("models/libraries.html", "models.libraries", "", "SpikingJelly, snnTorch", "A network of SpikingJelly, snnTorch or Norse as a student."),
  entry("data/batches.html#batches", "data.batches", "Batches", "def Batches(batch_size, size): the size of a picture and the batch it is in."),
  entry("tutorials/gpu.html#batch-size", "From the notebook to a GPU box", "Batch size on several GPUs", "What each process takes."),
  entry("results/cifar.html", "The small comparison", "", "Runs.", "CIFAR-10 and CIFAR-100 on two CPU cores."),
  entry("data/sources.html#cifar10", "data.sources", "CIFAR10", "The data set by name."),
  entry("index.html#licence", "sastc", "Licence and citation", "Apache 2.0."),
  entry("methods/losses.html#kd_loss", "methods.losses", "kd_loss", "Soft labels of the teacher."),
];

const found = (query, options) => new Fuse(SITE).search(query, options).map(({ item }) => item.href);

test("a word is not a part of another word", () => {
  assert.equal(found("LIF")[0], "neurons/neuron.html#lif");
  assert.equal(found("lif")[0], "neurons/neuron.html#lif");
  assert.ok(!found("LIF ").slice(0, 2).includes("studies/life.html"));
});

test("a word that is written like a heading means the heading", () => assert.equal(found("IF neuron")[0], "neurons/neuron.html#if"));

test("names are found as a whole and in parts, however they are written", () => {
  for (const query of ["SpikingJelly", "spikingjelly", "spiking jelly"]) assert.ok(found(query).slice(0, 2).every((href) => /parts|libraries/.test(href)), query);
  for (const query of ["CIFAR-10", "cifar10", "CIFAR10"]) assert.ok(found(query).slice(0, 2).includes("results/cifar.html"), query);
  assert.equal(found("kd_loss")[0], "methods/losses.html#kd_loss");
  assert.equal(found("kd loss")[0], "methods/losses.html#kd_loss");
});

test("words that stand together in a heading come before words that are apart", () => assert.equal(found("batch size")[0], "tutorials/gpu.html#batch-size"));

test("what a page is about counts, also where its text does not say it", () => assert.equal(found("surrogate gradient")[0], "neurons/neuron.html"));

test("other words for the same, other numbers, and slips of a letter are understood", () => {
  assert.equal(found("license")[0], "index.html#licence");
  for (const query of ["multi GPU", "multi-GPU", "multi-gpu"]) assert.equal(found(query)[0], "tutorials/gpu.html#batch-size", query);
  assert.equal(found("surogate")[0], "neurons/neuron.html");
  assert.equal(found("surr")[0], "neurons/neuron.html"); // while it is being typed
});

test("nothing is found for what nobody wrote, and a page does not fill the list", () => {
  assert.deepEqual(found("zzzz"), []);
  assert.ok(found("neuron").filter((href) => href.startsWith("neurons/neuron")).length <= 3);
  assert.equal(found("neuron", { limit: 1 }).length, 1);
});
