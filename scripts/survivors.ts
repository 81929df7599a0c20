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
export const survivors: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'native/sums.h': {
    'if (columns_of_channel_ >= 1) columns_ =': 'room that nobody reads',
    'for (size_t copy = 0; copy + channels.begin <= end;': 'a copy of no channels',
    'lost_ += std::fabs(sum_) > std::fabs(value)': 'of two that are as large either loses nothing',
    'if (channels.begin > channels.end) return;': 'no channels have no tiles',
    'if (summed.begin > summed.end) return;': 'of no channels none is bad',
    'if (kernels_.find_bad(channels_settled, 2,': 'more is looked at, and what is finite is left as it is',
    'if (shape.inner >= 1) {': 'the way for planes serves single values too',
    'for (size_t lane = 0; lane <= half;': 'reads beyond, and what it adds there nobody reads',
  },
  'native/settle.h': {
    'if (tiling.layout() != kChannelsFirst || tiling.rows() > 0)': 'fills room that nobody reads',
    'if (!tiling.layout() == kChannelsFirst || tiling.rows() > 0)': 'fills room that nobody reads',
    'for (size_t copy = width; copy + channels.begin <= end;': 'a copy of no channels',
    'if (tiling.layout() == kChannelsFirst || tiling.rows() >= 0)': 'fills room that nobody reads',
    'return std::max(width, round_up(tiling.rest()': 'fills room that nobody reads',
    'const bool lines = ': 'where arrays lie to a line',
    'if (std::is_same_v<S, T>) return 0;': 'where arrays lie to a line',
  },
  'native/partition.h': {
    'return {distance, ~size_t{0}, 1};': 'where memory is asked from',
    'for (size_t i = 0, share = 0; i <= Count;': 'writes beyond, which AddressSanitizer watches',
  },
  'native/batchnorm.cpp': {
    '{channels, eps, 2, mean, variance, c.mean': 'slope and constant are not wanted',
    'const Plan plan = plan_of<S>(execution, partition, {1, false, pass.x == pass.y': 'a plan changes no bit',
    'const bool has_columns = tiling.columns_of_channel() >= 1;': 'spread over one column is a copy',
    'const bool near = bytes <= kNearBytes && bytes <= execution.stream_bytes;':
      'both ways give the same bits',
  },
  'native/rows_forward.cpp': {
    'const size_t columns = std::min(end - at, row_values + in_row);': 'what begins within a row ends in it',
    'const Plan plan = plan_of<S>(execution, partition, {2, pass.y != nullptr': 'a plan changes no bit',
    'const Columns<T> columns(scratch, shape, pass.weight, pass.bias, plain,':
      'how many samples lie side by side',
    'Scratch::keep(': 'memory that is kept',
  },
  'native/rows_backward.cpp': {
    'Scratch::keep(': 'memory that is kept',
  },
  'native/stored.cpp': {
    'if (!samples_ > fold) samples_ -=': 'which part of y is made at a time',
    'const size_t misaligned = ': 'of what goes past the caches, to which generic CPUs have no way',
    'const size_t lead = ': 'of what goes past the caches',
    'lead_ = ': 'of what goes past the caches',
    '(piece.place - misaligned)': 'of what goes past the caches',
    'const bool streamed = pass.x.at == pass.y': 'of what goes past the caches',
    'const bool follow = stride == static_cast<ptrdiff_t>(channels) && count':
      'pixels one after the other are read together, or one by one',
  },
};
