// Where the names beside dots stand, so that none lies on another or on a dot.

/** A dot with a name, in pixels. */
export interface Named {
  readonly name: string;
  readonly x: number;
  readonly y: number;
}

export interface Label extends Named {
  /** Where the name begins, or ends where it stands left of its dot. */
  readonly textX: number;
  /** The middle of its line. */
  readonly textY: number;
  readonly anchor: 'start' | 'end';
}

/** In pixels, of a font of 11 that is bold: wider than most, for nobody knows the reader's font. */
const letter = 7.2;
const line = 14;
const radius = 5;
const beside = 8;

export interface Box {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

function overlap(a: Box, b: Box): boolean {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/**
 * Each name beside its dot, on the side where there is more room, else on the other, else as few lines above or below as there must be.
 * Earlier dots have the better places.
 *
 * @param lines what is drawn and is to be read, too.
 */
export function placed(dots: readonly Named[], room: Box, lines: readonly Box[] = []): Label[] {
  const ownBoxes = dots.map(({ x, y }): Box => {
    return { left: x - radius, right: x + radius, top: y - radius, bottom: y + radius };
  });
  const taken = [...ownBoxes, ...lines];
  return dots.map((dot) => {
    const isRight = dot.x > (room.left + room.right) / 2;
    const sides = isRight ? (['end', 'start'] as const) : (['start', 'end'] as const);
    const width = letter * dot.name.length;
    // Half lines, up to those of the whole room.
    for (let step = 0; step <= (4 * (room.bottom - room.top)) / line; step++)
      for (const anchor of sides) {
        const textX = anchor === 'start' ? dot.x + beside : dot.x - beside;
        const textY = dot.y + ((step % 2 === 0 ? 1 : -1) * Math.ceil(step / 2) * line) / 2;
        const left = anchor === 'start' ? textX : textX - width;
        const box = { left, right: left + width, top: textY - line / 2, bottom: textY + line / 2 };
        const isWithin =
          box.left >= room.left &&
          box.right <= room.right &&
          box.top >= room.top &&
          box.bottom <= room.bottom;
        if (!isWithin || taken.some((other) => overlap(box, other))) continue;
        taken.push(box);
        return { ...dot, textX, textY, anchor };
      }
    throw new Error(`${dot.name} must have room for its name, got none in ${room.right} x ${room.bottom}`);
  });
}
