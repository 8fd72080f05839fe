// Colours. The lists stand in Python too; tests/test_javascript.py fails where the two differ.

/** Of lines: `COLOURS` of the figures. */
export const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8E6BBF"];

/** Of weights: Cividis, which people with any kind of colour vision read in the same order. */
export const WEIGHTS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]
];

/** Of differences: PuOr reversed, with a light middle for "no difference". */
export const DIFFERENCES = [
  [45, 0, 75], [84, 39, 136], [128, 115, 172], [178, 171, 210], [216, 218, 235], [247, 247, 247],
  [254, 224, 182], [253, 184, 99], [224, 130, 20], [179, 88, 6], [127, 59, 8]
];

/** A colour with a little of the text's colour, which gives contrast on light and dark grounds. */
export const inked = (colour) => `color-mix(in srgb, ${colour} 84%, currentColor)`;

/** Colour of the line at a place in a legend. */
export const lineColour = (place) => inked(PALETTE[place % PALETTE.length]);

/**
 * Colour between the entries of a scale.
 * @param {number[][]} scale of red, green and blue from 0 to 255
 * @param {number} share of the way along the scale; what lies outside 0 to 1 takes the colour of the end
 * @returns {number[]}
 */
export function colourAt(scale, share) {
  const place = Math.min(1, Math.max(0, share)) * (scale.length - 1);
  const below = Math.min(scale.length - 2, Math.floor(place));
  return scale[below].map((channel, i) => Math.round(channel + (scale[below + 1][i] - channel) * (place - below)));
}

/** Black or white, whichever contrasts more with a colour: 0.179 is the luminance at which both contrast alike (WCAG). */
export function inkOn(colour) {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = colour.map((channel) => linear(channel / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}
