// What the compiler's sanitizer passes call in a checked build: every load and store, and undefined behavior that
// depends on values. The names and arguments are fixed by the sanitizers.
using namespace emulator;
using namespace emulator::checker;

#define CALLER ((uint64_t)__builtin_return_address(0))
#define HOOKS(size)                                                                              \
    void __tsan_read##size(void* p) { touch(p, size, CALLER, READ); }                            \
    void __tsan_write##size(void* p) { touch(p, size, CALLER, WRITE); }                          \
    void __tsan_read_write##size(void* p) { touch(p, size, CALLER, READ); touch(p, size, CALLER, WRITE); }        \
    void __tsan_unaligned_read##size(void* p) { touch(p, size, CALLER, READ); }                  \
    void __tsan_unaligned_write##size(void* p) { touch(p, size, CALLER, WRITE); }                \
    void __tsan_unaligned_read_write##size(void* p) { touch(p, size, CALLER, READ); touch(p, size, CALLER, WRITE); } \
    void __tsan_volatile_read##size(void* p) { touch_volatile(p, size, CALLER, false); }         \
    void __tsan_volatile_write##size(void* p) { touch_volatile(p, size, CALLER, true); }         \
    void __tsan_unaligned_volatile_read##size(void* p) { touch_volatile(p, size, CALLER, false); }         \
    void __tsan_unaligned_volatile_write##size(void* p) { touch_volatile(p, size, CALLER, true); }

namespace {
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};
struct TypeDescriptor {
    uint16_t kind, info;  // kind 0: an integer, 1: a float; info of an integer: log2 of its bits, times 2, plus 1 if signed
    char name[1];
};
struct OutOfBoundsData {
    SourceLocation where;
    TypeDescriptor* array;
};
struct OverflowData {
    SourceLocation where;
    TypeDescriptor* type;
};
struct ShiftData {
    SourceLocation where;
    TypeDescriptor *left, *right;
};
struct CastData {
    SourceLocation where;
    TypeDescriptor *from, *to;
};
struct MismatchData {
    SourceLocation where;
    TypeDescriptor* type;
    unsigned char log_alignment, kind;
};

std::string name(const SourceLocation& where) {
    const char* slash = strrchr(where.file, '/');
    return std::string(slash ? slash + 1 : where.file) + ":" + std::to_string(where.line);
}

// The emulator's own headers compute as a GPU does, not as C++ does.
bool is_ours(const SourceLocation& where) { return strstr(where.file, "emulator/include/") != nullptr; }

// What is at an address, as "x[1]".
std::string place(uint64_t address) {
    char* pointer = reinterpret_cast<char*>(address);
    int64_t region = current.launch->checked ? checker::find(pointer, 1) : -1;
    if (region < 0) return "memory";
    return checker::element(current.launch->regions[region], pointer - current.launch->regions[region].base);
}

// A value of up to 8 bytes comes as a number, a larger one by its address.
int64_t integer(const TypeDescriptor* type, uint64_t value) {
    int bits = 1 << (type->info >> 1);
    if (bits > 64) return *reinterpret_cast<int64_t*>(value);
    bool is_signed = type->info & 1;
    return is_signed ? (int64_t)(value << (64 - bits)) >> (64 - bits) : (int64_t)value;
}

std::string decimal(const TypeDescriptor* type, uint64_t value) {
    return type->info & 1 ? std::to_string(integer(type, value)) : std::to_string((uint64_t)integer(type, value));
}

double real_number(const TypeDescriptor* type, uint64_t value) {
    float single;
    double number;
    uint32_t word = (uint32_t)value;
    memcpy(&single, &word, sizeof single);
    memcpy(&number, &value, sizeof number);
    return type->info == 32 ? single : number;
}

void overflow(const OverflowData* data, const std::string& formula) {
    if (!in_kernel() || is_ours(data->where)) return;
    fail(UNDEFINED_ARITHMETIC, "computes " + formula + " at " + name(data->where) + ", which overflows " + data->type->name);
}
}  // namespace

#pragma GCC visibility push(default)
extern "C" {
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* p, size_t size) { touch(p, (int64_t)size, CALLER, READ); }
void __tsan_write_range(void* p, size_t size) { touch(p, (int64_t)size, CALLER, WRITE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void* __tsan_memcpy(void* to, const void* from, size_t size) {
    touch(const_cast<void*>(from), (int64_t)size, CALLER, READ);
    touch(to, (int64_t)size, CALLER, WRITE);
    return memcpy(to, from, size);
}
void* __tsan_memset(void* to, int value, size_t size) {
    touch(to, (int64_t)size, CALLER, WRITE);
    return memset(to, value, size);
}

void __ubsan_handle_out_of_bounds(OutOfBoundsData* data, uint64_t index) {
    if (!in_kernel()) return;
    fail(OUT_OF_BOUNDS, "uses the index " + std::to_string((int64_t)index) + " at " + name(data->where) +
         " in an array of the type " + data->array->name);
}
void __ubsan_handle_type_mismatch_v1(MismatchData* data, uint64_t address) {
    if (!in_kernel()) return;
    uint64_t alignment = 1ull << data->log_alignment;
    fail(MISALIGNED, "uses " + place(address) + " at " + name(data->where) + " as " + data->type->name + ", at an address " +
         std::to_string(address % alignment) + " bytes past a multiple of " + std::to_string(alignment));
}
void __ubsan_handle_add_overflow(OverflowData* data, uint64_t a, uint64_t b) {
    overflow(data, decimal(data->type, a) + " + " + decimal(data->type, b));
}
void __ubsan_handle_sub_overflow(OverflowData* data, uint64_t a, uint64_t b) {
    overflow(data, decimal(data->type, a) + " - " + decimal(data->type, b));
}
void __ubsan_handle_mul_overflow(OverflowData* data, uint64_t a, uint64_t b) {
    overflow(data, decimal(data->type, a) + " * " + decimal(data->type, b));
}
void __ubsan_handle_divrem_overflow(OverflowData* data, uint64_t a, uint64_t b) {
    overflow(data, decimal(data->type, a) + " / " + decimal(data->type, b));
}
void __ubsan_handle_negate_overflow(OverflowData* data, uint64_t a) { overflow(data, "-(" + decimal(data->type, a) + ")"); }
void __ubsan_handle_shift_out_of_bounds(ShiftData* data, uint64_t, uint64_t by) {
    if (!in_kernel() || is_ours(data->where)) return;
    fail(UNDEFINED_ARITHMETIC, "shifts by " + decimal(data->right, by) + " at " + name(data->where) + ", which " +
         data->left->name + " of " + std::to_string(1 << (data->left->info >> 1)) + " bits does not allow");
}
void __ubsan_handle_float_cast_overflow(CastData* data, uint64_t from) {
    if (!in_kernel() || is_ours(data->where)) return;
    fail(UNDEFINED_ARITHMETIC, "converts " + std::to_string(real_number(data->from, from)) + " at " + name(data->where) + " to " + data->to->name +
         ", which cannot hold it");
}

void emulator_read(const void* address, unsigned size, void* pc) {
    touch(const_cast<void*>(address), size, (uint64_t)pc, READ);
}
void emulator_atomic(void* address, unsigned size, void* pc, int access) {
    launch->counts.atomics++;
    if (access & 2) count_update(static_cast<char*>(address), size);
    if (access & 4) resolve_doubts(static_cast<char*>(address), size);
    touch(address, size, (uint64_t)pc, access == 1 ? POLL : ATOMIC, access);
}
void emulator_order_matters(void* address, void* pc) { note_order(static_cast<char*>(address), (uint64_t)pc); }
void emulator_fence(int whole_device) {
    settle();
    take_snapshot(whole_device);
}
void emulator_local(void* address, size_t size, const char* name) {
    char* begin = static_cast<char*>(address);
    if (!in_kernel() || begin < current.stack_begin || begin + size > current.stack_end) return;
    auto& locals = block->locals[current.thread];
    memset(begin + STACK, name != nullptr, size);
    if (name) {
        for (size_t i = 0; i < size; i++) begin[i] = (char)PATTERN[(uintptr_t)(begin + i) % 8];
        locals.push_back({begin, size, name});
    } else if (!locals.empty() && locals.back().address == begin) {
        locals.pop_back();
    }
}
void emulator_padding(void* address, const char* members, size_t size) {
    char* begin = static_cast<char*>(address);
    if (!in_kernel() || begin < current.stack_begin || begin + size > current.stack_end) return;
    for (size_t i = 0; i < size; i++) begin[i + STACK] &= members[i];
}
void* emulator_shared_part(void* address, size_t size) { return shared_part(static_cast<char*>(address), (int64_t)size); }
void emulator_count_flops(int count) { launch->counts.flops += count; }
void emulator_count_special() { launch->counts.special++; }
}
#pragma GCC visibility pop
