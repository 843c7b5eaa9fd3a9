// Filters over sequences.
#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/builtins.hpp"
#include "core/model/template/operators.hpp"
#include "core/model/template/print.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

using Items = std::vector<Value>;

// Reads "a.b.0" of a value; numbers read elements.
class Path {
 public:
  static Result<Path> of(const Value& path) {
    Path out;
    if (path.as_int()) {
      out.keys_.push_back(path);
      return out;
    }
    if (path.str() == nullptr) return wrong_type("attribute", "a string or a number", path);
    std::string_view rest = path.str()->text;
    for (bool more = true; more;) {
      const size_t dot = std::min(rest.find('.'), rest.size());
      const std::string part(rest.substr(0, dot));
      const bool number =
          !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == std::string::npos;
      out.keys_.push_back(number ? Value(static_cast<int64_t>(std::stoll(part))) : Value::text(part));
      more = dot < rest.size();
      rest = more ? rest.substr(dot + 1) : std::string_view();
    }
    return out;
  }

  // What is missing on the way, at any part, becomes the default if there is one.
  Result<Value> read(Interpreter& in, Value value, const Value* otherwise = nullptr) const {
    for (const Value& key : keys_) {
      MOE_TRY(in.step());
      MOE_ASSIGN(value, in.item(value, key));
      if (otherwise != nullptr && value.is_undefined()) value = *otherwise;
    }
    return value;
  }

 private:
  std::vector<Value> keys_;
};

// What sort, unique, min, ... compare items by: an attribute, and text without regard to case unless told otherwise.
class KeyOf {
 public:
  static Result<KeyOf> of(const Value* attribute, bool case_sensitive) {
    KeyOf out;
    out.case_sensitive_ = case_sensitive;
    if (attribute == nullptr || attribute->is_none()) return out;
    if (attribute->str() == nullptr || attribute->str()->text.find(',') == std::string::npos) {
      MOE_ASSIGN(Path path, Path::of(*attribute));
      out.paths_.push_back(std::move(path));
      return out;
    }
    std::string_view rest = attribute->str()->text;
    for (bool more = true; more;) {
      const size_t comma = std::min(rest.find(','), rest.size());
      MOE_ASSIGN(Path path, Path::of(Value::text(std::string(rest.substr(0, comma)))));
      out.paths_.push_back(std::move(path));
      more = comma < rest.size();
      rest = more ? rest.substr(comma + 1) : std::string_view();
    }
    return out;
  }

  Result<Value> operator()(Interpreter& in, const Value& item) const {
    if (paths_.size() > 1) {
      Items keys;
      for (const Path& path : paths_) {
        MOE_ASSIGN(Value key, path.read(in, item));
        MOE_ASSIGN(key, folded(in, std::move(key)));
        keys.push_back(std::move(key));
      }
      return in.list(std::move(keys));
    }
    if (paths_.empty()) return folded(in, item);
    MOE_ASSIGN(Value key, paths_[0].read(in, item));
    return folded(in, std::move(key));
  }

 private:
  Result<Value> folded(Interpreter& in, Value key) const {
    if (case_sensitive_ || key.str() == nullptr) return key;
    return in.text(to_lower(key.str()->text));
  }

  std::vector<Path> paths_;
  bool case_sensitive_ = false;
};

using Keyed = std::pair<Value, Value>;  // key, item

// A stable merge sort whose comparison may fail, which std::sort forbids.
Status merge_sort(Interpreter& in, std::vector<Keyed>& items, bool reverse) {
  std::vector<Keyed> merged(items.size());
  for (size_t width = 1; width < items.size(); width *= 2) {
    for (size_t begin = 0; begin < items.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, items.size());
      const size_t end = std::min(middle + width, items.size());
      size_t left = begin;
      size_t right = middle;
      for (size_t to = begin; to < end; ++to) {
        bool take_right = left == middle;
        if (left < middle && right < end) {
          MOE_TRY(in.step());
          const Value& l = items[left].first;
          const Value& r = items[right].first;
          MOE_ASSIGN(take_right, reverse ? less(in, l, r) : less(in, r, l));
        }
        merged[to] = std::move(items[take_right ? right++ : left++]);
      }
    }
    items.swap(merged);
  }
  return {};
}

Result<std::vector<Keyed>> with_keys(Interpreter& in, const Items& items, const KeyOf& key_of) {
  std::vector<Keyed> out;
  MOE_TRY(in.step(items.size()));
  for (const Value& item : items) {
    MOE_ASSIGN(Value key, key_of(in, item));
    out.emplace_back(std::move(key), item);
  }
  return out;
}

Result<Value> sort_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("sort", args, {"reverse", "case_sensitive", "attribute"}));
  MOE_ASSIGN(const auto items, in.iterate(input));
  MOE_ASSIGN(const KeyOf key_of, KeyOf::of(p.get(2), p.truthy(1, false)));
  MOE_ASSIGN(std::vector<Keyed> keyed, with_keys(in, items->items, key_of));
  MOE_TRY(merge_sort(in, keyed, p.truthy(0, false)));
  Items out;
  for (Keyed& k : keyed) out.push_back(std::move(k.second));
  return in.list(std::move(out));
}

Result<Value> dictsort_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("dictsort", args, {"case_sensitive", "by", "reverse"}));
  MOE_ASSIGN(const std::string by, p.text(1, "key"));
  if (by != "key" && by != "value") return moe::invalid("You can only sort by either \"key\" or \"value\"");
  if (input.dict() == nullptr) return wrong_type("dictsort", "a mapping", input);
  MOE_ASSIGN(const KeyOf key_of, KeyOf::of(nullptr, p.truthy(0, false)));
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : input.dict()->entries) {
    MOE_ASSIGN(Value sort_key, key_of(in, by == "key" ? key : value));
    MOE_ASSIGN(Value pair, in.list({key, value}, Flavor::kTuple));
    keyed.emplace_back(std::move(sort_key), std::move(pair));
  }
  MOE_TRY(merge_sort(in, keyed, p.truthy(2, false)));
  Items out;
  for (Keyed& k : keyed) out.push_back(std::move(k.second));
  return in.list(std::move(out));
}

Result<Value> unique_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("unique", args, {"case_sensitive", "attribute"}));
  MOE_ASSIGN(const auto items, in.iterate(input));
  MOE_ASSIGN(const KeyOf key_of, KeyOf::of(p.get(1), p.truthy(0, false)));
  Dict seen;
  Items out;
  for (const Value& item : items->items) {
    MOE_ASSIGN(Value key, key_of(in, item));
    MOE_TRY(hashable(key));
    MOE_TRY(in.step(key.weight()));
    if (seen.find(key) != nullptr) continue;
    seen.set(std::move(key), Value(None{}));
    out.push_back(item);
  }
  return in.list(std::move(out), Flavor::kGenerator);
}

template <bool want_max>
Result<Value> extreme(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind(want_max ? "max" : "min", args, {"case_sensitive", "attribute"}));
  MOE_ASSIGN(const auto items, in.iterate(input));
  if (items->items.empty()) return undefined("No aggregated item, sequence was empty.");
  MOE_ASSIGN(const KeyOf key_of, KeyOf::of(p.get(1), p.truthy(0, false)));
  MOE_ASSIGN(const std::vector<Keyed> keyed, with_keys(in, items->items, key_of));
  size_t best = 0;
  for (size_t i = 1; i < keyed.size(); ++i) {
    MOE_ASSIGN(const bool better,
               want_max ? less(in, keyed[best].first, keyed[i].first) : less(in, keyed[i].first, keyed[best].first));
    if (better) best = i;
  }
  return keyed[best].second;
}

Result<Value> groupby_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("groupby", args, {"attribute", "default", "case_sensitive"}, 1));
  MOE_ASSIGN(const auto items, in.iterate(input));
  MOE_ASSIGN(const Path path, Path::of(*p.get(0)));
  std::vector<Keyed> keyed;
  for (const Value& item : items->items) {
    MOE_ASSIGN(Value key, path.read(in, item, p.given(1)));
    if (key.str() != nullptr && !p.truthy(2, false)) {
      MOE_ASSIGN(key, in.text(to_lower(key.str()->text)));
    }
    keyed.emplace_back(std::move(key), item);
  }
  MOE_TRY(merge_sort(in, keyed, false));
  Items groups;
  for (size_t i = 0; i < keyed.size();) {
    const size_t begin = i;
    Items members;
    for (; i < keyed.size() && equal(keyed[i].first, keyed[begin].first); ++i) members.push_back(keyed[i].second);
    MOE_ASSIGN(Value name, path.read(in, members[0], p.given(1)));  // as it was written, not folded
    MOE_ASSIGN(Value list, in.list(std::move(members)));
    MOE_ASSIGN(const Value pair, in.list({std::move(name), std::move(list)}, Flavor::kTuple));
    auto group = std::make_shared<List>();  // the same pair, with names
    group->items = pair.list()->items;
    group->flavor = Flavor::kTuple;
    group->is_group = true;
    group->depth = pair.depth();
    group->weight = pair.weight();
    groups.emplace_back(std::shared_ptr<const List>(std::move(group)));
  }
  return in.list(std::move(groups));
}

// --- picking

Result<Value> first_filter(Interpreter& in, const Value& input, Args&) {
  MOE_ASSIGN(const auto items, in.iterate(input));
  return items->items.empty() ? undefined("No first item, sequence was empty.") : items->items.front();
}

Result<Value> last_filter(Interpreter& in, const Value& input, Args&) {
  if (input.is_list(Flavor::kGenerator)) return moe::invalid("'generator' object is not reversible");
  MOE_ASSIGN(const auto items, in.iterate(input));
  return items->items.empty() ? undefined("No last item, sequence was empty.") : items->items.back();
}

// The rest of the arguments after the first n.
Args after(const Args& args, size_t n) {
  Args out;
  out.positional.assign(args.positional.begin() + static_cast<long>(std::min(n, args.positional.size())),
                        args.positional.end());
  out.named = args.named;
  return out;
}

// select, reject and their attribute forms. No test: truth itself.
template <bool keep, bool by_attribute>
Result<Value> pick(Interpreter& in, const Value& input, Args& args) {
  std::optional<Path> path;
  if (by_attribute) {
    if (args.positional.empty()) return moe::invalid("Missing parameter for attribute name");
    MOE_ASSIGN(path, Path::of(args.positional[0]));
  }
  const size_t at = by_attribute ? 1 : 0;
  const Str* name = at < args.positional.size() ? args.positional[at].str() : nullptr;
  if (at < args.positional.size() && name == nullptr) return wrong_type("select", "a test's name", args.positional[at]);
  MOE_ASSIGN(const auto items, in.iterate(input));
  Items out;
  for (const Value& item : items->items) {
    MOE_TRY(in.step());
    Value value = item;
    if (path) {
      MOE_ASSIGN(value, path->read(in, item));
    }
    Args rest = after(args, at + 1);
    MOE_ASSIGN(const bool holds,
               name == nullptr ? Result<bool>(value.truthy()) : in.apply_test(name->text, value, rest));
    if (holds == keep) out.push_back(item);
  }
  return in.list(std::move(out), Flavor::kGenerator);
}

Result<Value> map_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const auto items, in.iterate(input));
  Items out;
  if (args.positional.empty()) {
    MOE_ASSIGN(const Params p, Params::bind("map", args, {"attribute", "default"}, 1));
    MOE_ASSIGN(const Path path, Path::of(*p.get(0)));
    for (const Value& item : items->items) {
      MOE_ASSIGN(Value value, path.read(in, item, p.given(1)));
      out.push_back(std::move(value));
    }
    return in.list(std::move(out), Flavor::kGenerator);
  }
  const Str* name = args.positional[0].str();
  if (name == nullptr) return wrong_type("map", "a filter's name", args.positional[0]);
  for (const Value& item : items->items) {
    MOE_TRY(in.step());
    Args rest = after(args, 1);
    MOE_ASSIGN(Value value, in.apply_filter(name->text, item, rest));
    out.push_back(std::move(value));
  }
  return in.list(std::move(out), Flavor::kGenerator);
}

// --- reshaping

Result<Value> join_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("join", args, {"d", "attribute"}));
  MOE_ASSIGN(const std::string between, p.get(0) != nullptr ? to_text(in, *p.get(0)) : Result<std::string>(""));
  MOE_ASSIGN(const auto items, in.iterate(input));
  std::optional<Path> path;
  if (p.given(1) != nullptr) {
    MOE_ASSIGN(path, Path::of(*p.given(1)));
  }
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    MOE_TRY(in.step());
    MOE_TRY(in.pay_bytes(between.size()));
    if (i > 0) out += between;
    Value item = items->items[i];
    if (path) {
      MOE_ASSIGN(item, path->read(in, std::move(item)));
    }
    MOE_TRY(append_text(in, out, item));
    MOE_TRY(in.check_bytes(out.size()));
  }
  return in.text(std::move(out));
}

Result<Value> list_filter(Interpreter& in, const Value& input, Args&) {
  MOE_ASSIGN(const auto items, in.iterate(input));
  return in.list(items->items);
}

Result<Value> items_filter(Interpreter& in, const Value& input, Args&) {
  Items out;
  if (!input.is_undefined()) {
    if (input.dict() == nullptr) return moe::invalid("Can only get item pairs from a mapping.");
    for (const auto& [key, value] : input.dict()->entries) {
      MOE_ASSIGN(Value pair, in.list({key, value}, Flavor::kTuple));
      out.push_back(std::move(pair));
    }
  }
  return in.list(std::move(out), Flavor::kGenerator);
}

Result<Value> reverse_filter(Interpreter& in, const Value& input, Args&) {
  if (const Str* s = input.str()) {
    const auto chars = split_chars(s->text);
    std::string out;
    for (auto it = chars.rbegin(); it != chars.rend(); ++it) out += *it;
    return in.text(std::move(out));
  }
  MOE_ASSIGN(const auto items, in.iterate(input));
  return in.list(Items(items->items.rbegin(), items->items.rend()), Flavor::kGenerator);
}

Result<Value> sum_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("sum", args, {"attribute", "start"}));
  MOE_ASSIGN(const auto items, in.iterate(input));
  Value total = p.get(1) != nullptr ? *p.get(1) : Value(int64_t{0});
  if (total.str() != nullptr) return moe::invalid("sum() can't sum strings [use ''.join(seq) instead]");
  for (Value item : items->items) {
    MOE_TRY(in.step());
    if (p.given(0) != nullptr) {
      MOE_ASSIGN(const Path path, Path::of(*p.given(0)));
      MOE_ASSIGN(item, path.read(in, std::move(item)));
    }
    MOE_ASSIGN(total, binary(in, Op::kAdd, total, item));
  }
  return total;
}

Result<Value> batch_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("batch", args, {"linecount", "fill_with"}, 1));
  MOE_ASSIGN(const int64_t size, p.integer(0, 1));
  MOE_ASSIGN(const auto items, in.iterate(input));
  if (size < 1) return moe::invalid(fmt::format("batch: expected a size of at least 1, got {}", size));
  Items out;
  Items line;
  for (size_t i = 0; i < items->items.size(); ++i) {
    line.push_back(items->items[i]);
    const bool last = i + 1 == items->items.size();
    if (!last && static_cast<int64_t>(line.size()) < size) continue;
    if (p.given(1) != nullptr) {
      MOE_TRY(in.step(static_cast<size_t>(size)));
      line.resize(static_cast<size_t>(size), *p.given(1));
    }
    MOE_ASSIGN(Value batch, in.list(std::exchange(line, {})));
    out.push_back(std::move(batch));
  }
  return in.list(std::move(out), Flavor::kGenerator);
}

Result<Value> slice_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("slice", args, {"slices", "fill_with"}, 1));
  MOE_ASSIGN(const int64_t wanted, p.integer(0, 1));
  MOE_ASSIGN(const auto items, in.iterate(input));
  if (wanted < 1) return moe::invalid(fmt::format("slice: expected at least 1 slice, got {}", wanted));
  const auto n_slices = static_cast<size_t>(wanted);
  MOE_TRY(in.step(n_slices));
  const size_t per_slice = items->items.size() / n_slices;
  const size_t n_longer = items->items.size() % n_slices;
  Items out;
  size_t at = 0;
  for (size_t i = 0; i < n_slices; ++i) {
    const size_t n = per_slice + (i < n_longer ? 1 : 0);
    Items part(items->items.begin() + static_cast<long>(at), items->items.begin() + static_cast<long>(at + n));
    at += n;
    if (p.given(1) != nullptr && i >= n_longer) part.push_back(*p.given(1));
    MOE_ASSIGN(Value made, in.list(std::move(part)));
    out.push_back(std::move(made));
  }
  return in.list(std::move(out), Flavor::kGenerator);
}

constexpr Named<FilterFn> kSequenceFilters[] = {
    {"batch", batch_filter},
    {"dictsort", dictsort_filter},
    {"first", first_filter},
    {"groupby", groupby_filter},
    {"items", items_filter},
    {"join", join_filter},
    {"last", last_filter},
    {"list", list_filter},
    {"map", map_filter},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"reject", pick<false, false>},
    {"rejectattr", pick<false, true>},
    {"reverse", reverse_filter},
    {"select", pick<true, false>},
    {"selectattr", pick<true, true>},
    {"slice", slice_filter},
    {"sort", sort_filter},
    {"sum", sum_filter},
    {"unique", unique_filter},
};

}  // namespace

FilterFn find_sequence_filter(std::string_view name) { return find_named(kSequenceFilters, name); }

}  // namespace patchbay::jinja
