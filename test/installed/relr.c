/* Preloaded by scripts/test-install.ts: Debian 12's musl, 1.2.3, leaves out the packed relative relocations (DT_RELR) of
   the libraries that come with Node for musl. Constructors of preloaded libraries run first. What the program had copied from
   them until then is copied again. x64 only. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#ifndef DT_RELR
#define DT_RELRSZ 35
#define DT_RELR 36
#endif

static void relocate(uintptr_t base, uintptr_t *place) {
  mprotect((void *)((uintptr_t)place & ~(uintptr_t)4095), 4096, PROT_READ | PROT_WRITE);
  *place += base;
}

/* R_X86_64_COPY of the program, the first object. */
static int copy_again(struct dl_phdr_info *program, size_t size, void *data) {
  (void)size, (void)data;
  const uintptr_t base = program->dlpi_addr;
  uintptr_t table[DT_NUM] = {0};
  for (int i = 0; i < program->dlpi_phnum; i++) {
    if (program->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
    for (const ElfW(Dyn) *entry = (void *)(base + program->dlpi_phdr[i].p_vaddr); entry->d_tag; entry++)
      if (entry->d_tag < DT_NUM) table[entry->d_tag] = entry->d_un.d_val;
  }
  const ElfW(Rela) *relocations = (void *)(base + table[DT_RELA]);
  const ElfW(Sym) *symbols = (void *)(base + table[DT_SYMTAB]);
  for (size_t i = 0; i < table[DT_RELASZ] / sizeof *relocations; i++) {
    if (ELF64_R_TYPE(relocations[i].r_info) != R_X86_64_COPY) continue;
    const ElfW(Sym) *symbol = &symbols[ELF64_R_SYM(relocations[i].r_info)];
    const char *name = (const char *)(base + table[DT_STRTAB] + symbol->st_name);
    const uintptr_t place = base + relocations[i].r_offset;
    const void *original = dlsym(RTLD_NEXT, name);
    mprotect((void *)(place & ~(uintptr_t)4095), 4096 + symbol->st_size, PROT_READ | PROT_WRITE);
    if (original) memcpy((void *)place, original, symbol->st_size);
  }
  return 1;
}

static int visit(struct dl_phdr_info *object, size_t size, void *data) {
  (void)size, (void)data;
  const uintptr_t base = object->dlpi_addr;
  const uintptr_t *entries = 0;
  size_t bytes = 0;
  for (int i = 0; i < object->dlpi_phnum; i++) {
    if (object->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
    for (const ElfW(Dyn) *entry = (void *)(base + object->dlpi_phdr[i].p_vaddr); entry->d_tag; entry++) {
      if (entry->d_tag == DT_RELR) entries = (void *)(base + entry->d_un.d_ptr);
      if (entry->d_tag == DT_RELRSZ) bytes = entry->d_un.d_val;
    }
  }
  uintptr_t *next = 0;
  for (size_t i = 0; entries && i < bytes / sizeof *entries; i++) {
    if (entries[i] % 2 == 0) {
      next = (uintptr_t *)(base + entries[i]);
      relocate(base, next++);
    } else {
      for (int bit = 0; bit < 63; bit++)
        if (entries[i] >> (bit + 1) & 1) relocate(base, next + bit);
      next += 63;
    }
  }
  return 0;
}

__attribute__((constructor)) static void relocate_all(void) {
  dl_iterate_phdr(visit, 0);
  dl_iterate_phdr(copy_again, 0);
}
