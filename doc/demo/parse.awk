# Turn usb.ids or pci.ids into rows for COPY: vendor, device, name.
#
# A vendor is "vvvv  name", each of its devices "<tab>dddd  name" below it.  The
# device of a vendor's own row is empty.  Interfaces and subsystems are two tabs
# deep, and classes, languages and the like begin with letters and a space: all
# of these are no devices.

/^#/ || /^[ \t]*$/ { next }

/^[0-9a-f][0-9a-f][0-9a-f][0-9a-f]  / {
	vendor = substr($0, 1, 4)
	put("", substr($0, 7))
	next
}

/^[^\t]/ { vendor = "" }

vendor != "" && /^\t[0-9a-f][0-9a-f][0-9a-f][0-9a-f]  / {
	put(substr($0, 2, 4), substr($0, 8))
}

# COPY reads a backslash as the begin of an escape, a tab as the next column
function put(device, name)
{
	gsub(/\\/, "\\\\", name)
	gsub(/\t/, " ", name)
	printf "%s\t%s\t%s\t%s\n", bus, vendor, device, name
}
