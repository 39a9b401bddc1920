package main

import (
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"
)

//go:generate go run ./seccompgen

// precompiledPrograms is gVisor's table of seccomp programs by configuration.
// Its go branch ships it empty.
//
//go:linkname precompiledPrograms gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var precompiledPrograms map[string]precompiledseccomp.Program

// registerSeccomp is set by the generated file of this architecture. Where
// there is none gVisor compiles at each start: right, but slower.
var registerSeccomp func(map[string]precompiledseccomp.Program)

func usePrecompiledSeccomp() {
	if registerSeccomp == nil {
		return
	}
	filter.ListPrecompiled() // fires the sync.Once that would empty the table
	registerSeccomp(precompiledPrograms)
}
