package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// notYet holds the keys whose feature is still to come. They are refused wherever
// they stand, even with their default, so that nothing a user writes is silently
// ignored. Removing a row here makes the key work.
var notYet = []string{
	"upstream.reconnect",
	"replay.last_id_param",
	"replay.retain",
	"events.webhook",
	"limits.max_sessions_per_ip",
	"limits.trusted_proxies",
	"shutdown",
}

// field is one key of the schema, with the place in a Config where its value goes.
type field struct {
	key   string
	tag   reflect.StructTag
	value reflect.Value // addressable
}

// section reports whether the field holds further keys.
func (f field) section() bool {
	switch f.value.Interface().(type) {
	case Address, URL, Template:
		return false
	}
	return f.value.Kind() == reflect.Struct
}

// refused reports whether the field, or a section around it, is not available yet.
func (f field) refused() bool {
	for _, key := range notYet {
		if f.key == key || strings.HasPrefix(f.key, key+".") {
			return true
		}
	}
	return false
}

// oneOf checks that s is one of the words allowed, where the schema lists them.
func (f field) oneOf(s string) error {
	if words := strings.Fields(f.tag.Get("oneof")); len(words) > 0 && !slices.Contains(words, s) {
		return fmt.Errorf("want one of %s", strings.Join(words, ", "))
	}
	return nil
}

// fields lists every key of c, sections before what is in them.
func fields(c *Config) []field {
	return appendFields(nil, "", reflect.ValueOf(c).Elem())
}

func appendFields(fs []field, prefix string, section reflect.Value) []field {
	for i := range section.NumField() {
		sf := section.Type().Field(i)
		f := field{key: prefix + sf.Tag.Get("yaml"), tag: sf.Tag, value: section.Field(i)}
		fs = append(fs, f)
		if f.section() {
			fs = appendFields(fs, f.key+".", f.value)
		}
	}
	return fs
}
