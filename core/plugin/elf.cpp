#include "core/plugin/elf.hpp"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>

namespace patchbay {
namespace {

using moe::invalid;

// A linker makes a dozen; more would make the search of symbols in them slow.
constexpr uint16_t kMostSegments = 256;

// The file's bytes, and checked ways into them.
class Bytes {
 public:
  explicit Bytes(std::string_view bytes) : bytes_(bytes) {}
  [[nodiscard]] size_t size() const { return bytes_.size(); }

  // `n` bytes at `offset`; empty view if they are not all there.
  [[nodiscard]] std::string_view at(uint64_t offset, uint64_t n) const {
    if (offset > bytes_.size() || n > bytes_.size() - offset) return {};
    return bytes_.substr(offset, n);
  }
  template <typename T>
  moe::Result<T> get(uint64_t offset) const {
    const auto view = at(offset, sizeof(T));
    if (view.size() != sizeof(T))
      return invalid(fmt::format("ELF: expected {} bytes at {}, got the end of the file", sizeof(T), offset));
    T value{};
    std::memcpy(&value, view.data(), sizeof(T));
    return value;
  }
  // A table of n elements.
  template <typename T>
  moe::Result<std::vector<T>> table(uint64_t offset, uint64_t n) const {
    if (n > bytes_.size() / sizeof(T))
      return invalid(fmt::format("ELF: expected a table within the file, got {} entries", n));
    std::vector<T> out;
    out.reserve(n);
    for (uint64_t i = 0; i < n; ++i) {
      MOE_ASSIGN(T value, get<T>(offset + i * sizeof(T)));
      out.push_back(value);
    }
    return out;
  }
  // A name in a string table that begins at `offset`.
  [[nodiscard]] std::string name(uint64_t offset) const {
    if (offset >= bytes_.size()) return "";
    const auto rest = bytes_.substr(offset, 4096);
    return std::string(rest.substr(0, rest.find('\0')));
  }

 private:
  std::string_view bytes_;
};

// What tables, names and notes take together: each is read once, so a library's are no larger than its file. A file in
// which they overlap would cost the square of its size.
class Budget {
 public:
  explicit Budget(size_t bytes) : left_(bytes) {}
  moe::Status take(uint64_t n) {
    if (n > left_)
      return invalid("ELF: expected tables, names and notes that do not overlap, got more than the file holds");
    left_ -= n;
    return {};
  }

 private:
  uint64_t left_;
};

moe::Status check_header(const Elf64_Ehdr& h) {
  if (std::memcmp(h.e_ident, ELFMAG, SELFMAG) != 0)
    return invalid("ELF: expected a shared library, got another kind of file");
  if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB)
    return invalid("ELF: expected 64 bits, little-endian");
  if (h.e_type != ET_DYN) return invalid(fmt::format("ELF: expected a shared library, got type {}", h.e_type));
  if (h.e_phentsize != sizeof(Elf64_Phdr) || (h.e_shnum != 0 && h.e_shentsize != sizeof(Elf64_Shdr)))
    return invalid("ELF: expected headers of the usual size");
  if (h.e_phnum > kMostSegments)
    return invalid(fmt::format("ELF: expected at most {} segments, got {}", kMostSegments, h.e_phnum));
  return {};
}

// Whether an address can be written after loading: in a writable segment, and not in the part that is made read-only
// after relocation.
bool is_constant(const std::vector<Elf64_Phdr>& segments, uint64_t address) {
  bool writable = false;
  for (const auto& s : segments) {
    if (address < s.p_vaddr || address - s.p_vaddr >= s.p_memsz) continue;
    if (s.p_type == PT_GNU_RELRO) return true;
    if (s.p_type == PT_LOAD) writable = (s.p_flags & PF_W) != 0;
  }
  return !writable;
}

}  // namespace

moe::Result<ElfFile> ElfFile::read(const std::filesystem::path& path) {
  constexpr uint64_t kMost = uint64_t{1} << 32;
  std::error_code ec;
  const auto size = std::filesystem::file_size(path, ec);
  if (ec || size > kMost)
    return invalid(fmt::format("{}: expected a library of at most 4 GiB, got {}", path.string(),
                               ec ? ec.message() : "a larger one"));
  std::ifstream in(path, std::ios::binary);
  std::string bytes(size, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(size));
  bytes.resize(static_cast<size_t>(in.gcount()));
  auto parsed = parse(bytes);
  if (!parsed.ok()) return parsed.error().in(path.string());
  return parsed;
}

moe::Result<ElfFile> ElfFile::parse(std::string_view bytes) {
  const Bytes file(bytes);
  Budget budget(file.size());
  ElfFile out;
  MOE_ASSIGN(const auto header, file.get<Elf64_Ehdr>(0));
  MOE_TRY(check_header(header));
  MOE_ASSIGN(const auto segments, file.table<Elf64_Phdr>(header.e_phoff, header.e_phnum));
  MOE_ASSIGN(const auto sections, file.table<Elf64_Shdr>(header.e_shoff, header.e_shnum));
  const auto strings_of = [&](const Elf64_Shdr& s) {
    return s.sh_link < sections.size() ? sections[s.sh_link].sh_offset : file.size();
  };
  for (const auto& section : sections) {
    if (section.sh_type == SHT_DYNSYM) {
      MOE_TRY(budget.take(section.sh_size));
      MOE_ASSIGN(const auto symbols, file.table<Elf64_Sym>(section.sh_offset, section.sh_size / sizeof(Elf64_Sym)));
      for (const auto& s : symbols) {
        if (s.st_shndx == SHN_UNDEF || ELF64_ST_BIND(s.st_info) == STB_LOCAL) continue;
        out.exported_.push_back({file.name(strings_of(section) + s.st_name), is_constant(segments, s.st_value),
                                 ELF64_ST_TYPE(s.st_info) == STT_FUNC});
        MOE_TRY(budget.take(out.exported_.back().name.size()));
      }
    }
    if (section.sh_type == SHT_DYNAMIC) {
      MOE_TRY(budget.take(section.sh_size));
      MOE_ASSIGN(const auto entries, file.table<Elf64_Dyn>(section.sh_offset, section.sh_size / sizeof(Elf64_Dyn)));
      for (const auto& e : entries) {
        if (e.d_tag != DT_NEEDED) continue;
        out.needed_.push_back(file.name(strings_of(section) + e.d_un.d_val));
        MOE_TRY(budget.take(out.needed_.back().size()));
      }
    }
  }
  for (const auto& s : segments) {  // segments, not sections: they stay when a library is stripped
    if (s.p_type != PT_NOTE) continue;
    MOE_TRY(budget.take(s.p_filesz));
    MOE_TRY(
        out.read_notes(bytes.substr(std::min<uint64_t>(s.p_offset, bytes.size()), s.p_filesz), s.p_align == 8 ? 8 : 4));
  }
  return out;
}

moe::Status ElfFile::read_notes(std::string_view segment, uint64_t alignment) {
  const Bytes notes(segment);
  const auto aligned = [&](uint64_t n) { return (n + alignment - 1) / alignment * alignment; };
  for (uint64_t at = 0; at + sizeof(Elf64_Nhdr) <= segment.size();) {
    MOE_ASSIGN(const auto note, notes.get<Elf64_Nhdr>(at));
    at += sizeof(note);
    const auto owner = notes.at(at, note.n_namesz);
    at = aligned(at + note.n_namesz);
    const auto text = notes.at(at, note.n_descsz);
    at = aligned(at + note.n_descsz);
    if (owner.size() != note.n_namesz || text.size() != note.n_descsz)
      return invalid(
          fmt::format("ELF: note: expected an owner of {} bytes and {} of text within the segment, got its end",
                      note.n_namesz, note.n_descsz));
    notes_.push_back({std::string(owner.substr(0, owner.find('\0'))), note.n_type, std::string(text)});
  }
  return {};
}

std::vector<std::string> ElfFile::notes(const std::string& owner, uint32_t type) const {
  std::vector<std::string> out;
  for (const auto& n : notes_) {
    if (n.owner == owner && n.type == type) out.push_back(n.description);
  }
  return out;
}

}  // namespace patchbay
