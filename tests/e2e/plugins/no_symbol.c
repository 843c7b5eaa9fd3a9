/* A library that is no plugin: it exports something else. */
const int something_else = 1;
