// The search of the site. smalldocs asks `Fuse` for the sections that fit a query; Fuse itself compares letters, so that LIF finds "life" and short
// sections win. This one compares words, and asks of how many of them a section, its heading, its page and the sentence below the title speak.
{
  const PASSING = new Set("a an and are as at by can do does for from get how i in is it of on or the to use what when where which why with".split(" "));
  const SAME = [
    ["my", "own", "your", "custom"],
    ["licence", "license"],
    ["multi", "multiple", "several", "many"],
    ["dataset", "data"],
    ["train", "training"],
    ["oom", "memory"],
    ["install", "installation", "pip"],
    ["hyperparameter", "hyper", "setting"],
    ["num_workers", "numworkers", "worker"],
  ].map((group) => group.map(stem));
  const OFTEN = 1.2; // times a word has to stand in a text for about half of what it can be worth
  const PER_PAGE = 3; // sections of one page among the results

  /** One form for the numbers of a word: seeds, queries. */
  function stem(word) {
    if (word.length > 4 && word.endsWith("ies")) return `${word.slice(0, -3)}y`;
    return word.length > 3 && word.endsWith("s") && !/(ss|us|is)$/.test(word) ? word.slice(0, -1) : word;
  }

  /** Words as they are compared: CIFAR-10, cifar10 and batch_size as a whole and in parts, SpikingJelly as a whole and in parts. */
  function words(text, parts = true) {
    const found = [];
    for (const [whole] of text.matchAll(/[\p{L}\p{N}]+(?:[-_.][\p{L}\p{N}]+)*/gu)) {
      const pieces = whole.split(/[-_.]/).flatMap((piece) => [piece, ...camel(piece)]);
      found.push(whole.replace(/[-_.]/g, ""), ...(parts && pieces.length > 1 ? pieces : []));
    }
    return found.map((word) => stem(word.toLowerCase()));
  }

  function camel(word) {
    const pieces = word.match(/\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+|\p{N}+/gu) ?? [];
    return pieces.length > 1 && pieces.every((piece) => piece.length > 1) ? pieces : [];
  }

  /** Text for a look at neighbouring words: batch_size and "batch sizes" are one phrase. */
  const phrase = (text) => ` ${(text.match(/[\p{L}\p{N}]+/gu) ?? []).map((word) => stem(word.toLowerCase())).join(" ")} `;

  function counts(text) {
    const found = new Map();
    for (const word of words(text)) found.set(word, (found.get(word) ?? 0) + 1);
    return found;
  }

  /** Whether two words differ by one letter: added, left out, changed, or exchanged with the next one. */
  function nearly(a, b) {
    if (Math.abs(a.length - b.length) > 1) return false;
    let start = 0;
    while (start < Math.min(a.length, b.length) && a[start] === b[start]) start += 1;
    const [x, y] = [a.slice(start), b.slice(start)];
    return x.slice(1) === y.slice(1) || x.slice(1) === y || x === y.slice(1) || (x[0] === y[1] && x[1] === y[0] && x.slice(2) === y.slice(2));
  }

  class Search {
    constructor(entries) {
      this.entries = entries.map((entry) => ({
        entry,
        page: entry.href.split("#")[0],
        name: /^\w+(\.\w+)*$/.test(entry.section) && /[_.(]|\p{Ll}\p{Lu}/u.test(entry.section), // of a function or a class
        title: counts(entry.title),
        section: counts(entry.section),
        about: counts(entry.about ?? ""),
        text: counts(entry.text),
        length: entry.text.length,
        said: [phrase(`${entry.title} ${entry.section}`), phrase(`${entry.about ?? ""} ${entry.text}`)],
      }));
      this.mean = this.entries.reduce((sum, { length }) => sum + length, 0) / Math.max(1, entries.length);
      this.known = new Map(); // word: in how many entries
      for (const { title, section, about, text } of this.entries)
        for (const word of new Set([...title.keys(), ...section.keys(), ...about.keys(), ...text.keys()])) this.known.set(word, (this.known.get(word) ?? 0) + 1);
    }

    /** What may stand for a word of the query, and what that is worth: itself, its like, what it begins, what it was meant to be. */
    meant(word, last) {
      const found = new Map(SAME.filter((group) => group.includes(word)).flatMap((group) => group.map((other) => [other, 0.7])));
      if (this.known.has(word)) found.set(word, 1);
      if (last || !found.size) for (const other of this.known.keys()) if (other.startsWith(word) && !found.has(other)) found.set(other, this.known.has(word) ? 0.2 : 0.8);
      if (!found.size && word.length > 3) for (const other of this.known.keys()) if (nearly(word, other)) found.set(other, 0.5);
      return found;
    }

    /** Words of a query: one that stands in no text as a whole, such as multi-GPU, counts as its parts. */
    asked(query) {
      return query.split(/\s+/).flatMap((written) => {
        const [whole, ...parts] = words(written);
        return parts.length && !this.known.has(whole) ? parts : words(written, false);
      });
    }

    /** How rare it is: log of the entries over those that have it. */
    rarity(word) {
      return Math.log(1 + this.entries.length / (1 + (this.known.get(word) ?? 0)));
    }

    /** How much one word of the query is worth in an entry. */
    worth(item, meant) {
      let best = 0;
      const usual = OFTEN * (0.5 + (0.5 * item.length) / this.mean);
      for (const [word, share] of meant) {
        const often = item.text.get(word) ?? 0;
        const heading = (item.section.has(word) ? 1.5 + 2 / item.section.size : 0) + (item.title.has(word) ? 1.5 : 0) + (item.about.has(word) ? (item.entry.section ? 0.5 : 2.5) : 0);
        const value = share * this.rarity(word) * (heading + (1.5 * often) / (often + usual));
        best = Math.max(best, value);
      }
      return best;
    }

    search(query, { limit = 20 } = {}) {
      let asked = this.asked(query);
      asked = asked.filter((word) => !PASSING.has(word)).length ? asked.filter((word) => !PASSING.has(word)) : asked;
      const meant = asked.map((word, place) => this.meant(word, place === asked.length - 1));
      const together = phrase(query);
      const written = query.trim().split(/\s+/);
      const found = [];
      for (const item of this.entries) {
        const worth = meant.map((each) => this.worth(item, each));
        const met = worth.filter((value) => value > 0).length / meant.length;
        if (met < 0.5) continue;
        let score = worth.reduce((sum, value) => sum + value, 0) * met ** 3;
        if (asked.length > 1) score *= item.said[0].includes(together) ? 1.7 : item.said[1].includes(together) ? 1.4 : 1;
        const exact = item.entry.section === query.trim() ? 2 : phrase(item.entry.section) === together ? 1.5 : 0;
        const named = written.includes(item.entry.section) ? 1.5 : 0; // in the same letters: IF neuron
        score *= exact || named || (item.name ? 0.6 : 1) * (/^(tutorials\/|guide|index)/.test(item.page) ? 1.4 : 1);
        found.push({ item: item.entry, page: item.page, score, met });
      }
      const pages = new Map(); // a page that speaks of it in many places is about it
      for (const { page, met } of found) if (met === 1) pages.set(page, (pages.get(page) ?? 0) + 1);
      for (const each of found) each.score *= 1 + 0.12 * Math.log2(1 + (pages.get(each.page) ?? 0));
      found.sort((a, b) => b.score - a.score);
      const shown = new Map();
      return found.filter(({ page }) => shown.set(page, (shown.get(page) ?? 0) + 1).get(page) <= PER_PAGE).slice(0, limit);
    }
  }

  globalThis.Fuse = Search;
}
