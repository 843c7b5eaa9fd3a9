/* Its constructor crashes whoever loads it. */
__attribute__((constructor)) static void crash(void) { __builtin_trap(); }
