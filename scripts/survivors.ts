// Changes that no test need notice: nothing that is promised changes with them.

/** Parts of lines that are left out, in any file, and why no change of them can be seen. */
export const unseen: Readonly<Record<string, string>> = {
  kBlockBytes: 'blocks change no bit',
  'constexpr size_t kBlock ': 'how many channels find_bad looks at together',
  'stride == 1': 'a constant for the compiler',
  '? 1 : 0': 'counted to know whether there is any',
  'new_mean - new_mean': 'what is not finite gives NaN with either sign',
  'terms[kQuad]': 'room',
  'places[9]': 'room',
  'return {from + column': 'where a quad asks memory from',
  'kMended = ': 'how many channels are looked at together',
  'kRows = ': 'how often a loop looks whether it may end',
  'kSpread = ': 'how many channels are settled together',
  kChannelsAbreast: 'which part of y is made at a time',
  kWholeLines: 'which part of y is made at a time',
  kScattered: 'how many values are collected together',
  kBetween: 'which way pixels are read that have gaps between them',
};

/** How lines begin once they are changed, by file, and why the change is none. */
export const survivors: Readonly<Record<string, Readonly<Record<string, string>>>> = {};
