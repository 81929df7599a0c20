import { expect, it } from 'vitest';
import { type Box, type Named, placed } from '../../bench/report/labels.js';
import { Random, seedNote } from '../support/random.js';

const room: Box = { left: 44, right: 370, top: 20, bottom: 296 };
const rule: Box = { ...room, top: 245, bottom: 245 };
const names = [
  'native 1T',
  'native 2T',
  'plain JS',
  'onnxruntime 1T',
  'oneDNN 1T',
  'oneDNN blocked 1T',
  'tfjs-wasm',
];

/** The box of a name in a font whose letters are 7 wide and 12 high. */
function boxOf({ name, textX, textY, anchor }: ReturnType<typeof placed>[number]): Box {
  const left = anchor === 'start' ? textX : textX - 7 * name.length;
  return { left, right: left + 7 * name.length, top: textY - 6, bottom: textY + 6 };
}

const meet = (a: Box, b: Box) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

it(`names of dots lie neither on each other nor on a dot nor on a line, and in the plot (${seedNote})`, () => {
  for (let round = 0; round < 200; round++) {
    const random = new Random(round);
    // Close together: as contenders are, and all in one place.
    const spread = 200 * random.uniform();
    const [x, y] = [60 + 100 * random.uniform(), 30 + 60 * random.uniform()];
    const dots = names.map(
      (name): Named => ({ name, x: x + spread * random.uniform(), y: y + spread * random.uniform() }),
    );
    const boxes = placed(dots, room, [rule]).map(boxOf);
    const others = [
      ...boxes,
      ...dots.map((dot) => ({ left: dot.x - 5, right: dot.x + 5, top: dot.y - 5, bottom: dot.y + 5 })),
      rule,
    ];
    for (const box of boxes) {
      expect(others.filter((other) => meet(box, other))).toEqual([box]);
      expect(box.left >= room.left && box.right <= room.right && box.top >= room.top).toBe(true);
      expect(box.bottom).toBeLessThanOrEqual(room.bottom);
    }
  }
});

it('a name stands beside its dot where nothing is in its way', () => {
  const dots = [
    { name: 'native 1T', x: 300, y: 100 },
    { name: 'plain JS', x: 100, y: 100 },
  ];
  expect(placed(dots, room).map(({ anchor, textY }) => [anchor, textY])).toEqual([
    ['end', 100],
    ['start', 100],
  ]);
});
